//! Latencies as an HdrHistogram log (V2, compressed), which HdrHistogram's own tools plot and merge.

use crate::measure::Measurement;
use crate::report::pace;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use std::io;
use std::time::{Duration, SystemTime};

/// One histogram per interval, in microseconds; repeats follow each other. With two targets each line has the tag `first` or `second`.
///
/// # Errors
/// None that a `Vec` or the histograms of a report give rise to; they would be the serializer's.
pub fn hdr_log(measurement: &Measurement, begun: SystemTime) -> io::Result<Vec<u8>> {
    let (mut out, mut serializer) = (Vec::new(), V2DeflateSerializer::new());
    let mut builder = IntervalLogWriterBuilder::new();
    for (tag, measured) in ["first", "second"].into_iter().zip(&measurement.targets) {
        builder.add_comment(&format!("{tag}: {} · {} · latency in microseconds", measured.subject, pace(&measured.script)));
    }
    builder.with_start_time(begun).with_base_time(begun).with_max_value_divisor(1e3); // the column beside each is in milliseconds
    let mut log = builder.begin_log_with(&mut out, &mut serializer)?;
    for (tag, measured) in ["first", "second"].into_iter().zip(&measurement.targets) {
        let tag = Tag::new(tag).filter(|_| measurement.targets.len() > 1);
        for (repeat, report) in (0u32..).zip(&measured.reports) {
            let begin = report.duration.saturating_mul(repeat);
            for (i, interval) in (0u32..).zip(&report.intervals) {
                let from = report.interval.saturating_mul(i);
                let length = report.duration.saturating_sub(from).min(report.interval).max(Duration::from_millis(1));
                log.write_histogram(&interval.latency_us, begin.saturating_add(from), length, tag).map_err(io::Error::other)?;
            }
        }
    }
    Ok(out)
}
