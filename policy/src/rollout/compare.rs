//! Do two answers to the same request agree? Judged row by row, as what the model's accuracy is measured by judges samples.

use super::Pairs;
use crate::DataType;
use crate::card::Metric;
use crate::classify::greatest;
use half::{bf16, f16};

/// When two answers agree.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Likeness {
    /// The greatest element of the first output is the same.
    Classes,
    /// Of every output of numbers the cosine is at least this.
    Cosine(f64),
    /// Every element is within what rounding in its type may come to; whole numbers and texts are equal.
    Close,
}

/// An output of an answer.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// Its name.
    pub name: &'a str,
    /// Type of its elements.
    pub datatype: DataType,
    /// Its dimensions.
    pub shape: &'a [i64],
    /// Little-endian, row-major.
    pub bytes: &'a [u8],
}

impl Likeness {
    /// By `metric`; where nobody says one, classes where the outputs have names of classes (`labelled`) or a name that says so.
    pub fn of(metric: Option<Metric>, cosine_min: f64, labelled: bool, first_output: Option<&str>) -> Self {
        let name = first_output.unwrap_or_default().to_lowercase();
        let named = || ["logit", "prob", "score", "class", "softmax"].iter().any(|part| name.contains(part));
        match metric {
            Some(Metric::Labels | Metric::Agreement) => Self::Classes,
            Some(Metric::Cosine) => Self::Cosine(cosine_min),
            None if labelled || named() => Self::Classes,
            None => Self::Close,
        }
    }
}

/// Compares the outputs of two answers to the same request, each row a pair; an answer that is not `batched` is one row. Outputs that one
/// of them lacks, or that have other dimensions, disagree in every row, as does what is no tensor.
pub fn compare(likeness: Likeness, batched: bool, baseline: &[Answer<'_>], candidate: &[Answer<'_>]) -> Pairs {
    let rows = baseline.first().and_then(|first| first.shape.first()).filter(|_| batched);
    let rows = rows.map_or(1, |rows| usize::try_from(*rows).unwrap_or_default());
    let mut bad = vec![false; rows];
    let other = |answer: &Answer<'_>| candidate.iter().find(|other| other.name == answer.name).filter(|other| other.shape == answer.shape);
    let all_bad = baseline.len() != candidate.len() || !baseline.iter().all(|answer| other(answer).is_some());
    let judged = if likeness == Likeness::Classes { 1 } else { baseline.len() };
    for answer in baseline.iter().take(judged) {
        let slices = other(answer).and_then(|other| Some((answer.rows(rows)?, other.rows(rows)?, other.datatype)));
        match slices {
            Some((ours, theirs, datatype)) => {
                for (bad, (ours, theirs)) in bad.iter_mut().zip(ours.into_iter().zip(theirs)) {
                    *bad = *bad || !likeness.holds((answer.datatype, ours), (datatype, theirs));
                }
            }
            None => bad.fill(true),
        }
    }
    let disagreed = if all_bad { rows } else { bad.into_iter().filter(|bad| *bad).count() };
    Pairs { compared: rows as u64, disagreed: disagreed as u64 }
}

impl Likeness {
    /// Does it hold of one row?
    fn holds(self, ours: (DataType, &[u8]), theirs: (DataType, &[u8])) -> bool {
        if ours == theirs {
            return true;
        }
        match (self, tolerance(ours.0).zip(tolerance(theirs.0))) {
            (Self::Classes, _) => match (ours.0, theirs.0) {
                (DataType::Bytes, _) | (_, DataType::Bytes) => false,
                _ => greatest(ours.0, ours.1) == greatest(theirs.0, theirs.1),
            },
            (Self::Cosine(least), Some(_)) => cosine(ours, theirs).is_some_and(|cosine| cosine >= least),
            (Self::Close, Some(of_both)) => {
                let (absolute, relative) = (of_both.0.0.max(of_both.1.0), of_both.0.1.max(of_both.1.1));
                let close = |(a, b): (f64, f64)| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= absolute + relative * a.abs();
                numbers(ours).zip(numbers(theirs)).all(|pair| pair.0.is_finite() == pair.1.is_finite() && close(pair))
            }
            // Whole numbers beside an embedding, such as a length, are what they are.
            (Self::Cosine(_) | Self::Close, None) => false,
        }
    }
}

/// Absolute and relative difference that rounding explains, for types that round.
fn tolerance(datatype: DataType) -> Option<(f64, f64)> {
    match datatype {
        DataType::Fp32 | DataType::Fp64 => Some((1e-5, 1e-3)),
        DataType::Fp16 => Some((1e-3, 1e-2)),
        DataType::Bf16 => Some((1e-2, 3e-2)),
        DataType::Bool
        | DataType::Uint8
        | DataType::Uint16
        | DataType::Uint32
        | DataType::Uint64
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Bytes => None,
    }
}

/// Elements of a type that rounds; of any other there are none.
fn numbers((datatype, bytes): (DataType, &[u8])) -> impl Iterator<Item = f64> {
    let width = datatype.size().unwrap_or(1);
    let one = move |element: &[u8]| match datatype {
        DataType::Fp16 => element.try_into().map(|e| f16::from_le_bytes(e).to_f64()).ok(),
        DataType::Bf16 => element.try_into().map(|e| bf16::from_le_bytes(e).to_f64()).ok(),
        DataType::Fp32 => element.try_into().map(|e| f64::from(f32::from_le_bytes(e))).ok(),
        DataType::Fp64 => element.try_into().map(f64::from_le_bytes).ok(),
        _ => None,
    };
    bytes.chunks_exact(width).filter_map(one)
}

/// None where it is no number, as of zeros with something else.
fn cosine(ours: (DataType, &[u8]), theirs: (DataType, &[u8])) -> Option<f64> {
    let sums = numbers(ours).zip(numbers(theirs)).fold((0.0, 0.0, 0.0), |(dot, aa, bb), (a, b)| (dot + a * b, aa + a * a, bb + b * b));
    let (dot, aa, bb) = sums;
    let cosine = if aa == 0.0 && bb == 0.0 { 1.0 } else { dot / (aa.sqrt() * bb.sqrt()) };
    cosine.is_finite().then_some(cosine)
}

impl<'a> Answer<'a> {
    /// The bytes of each row; none where they are not what the dimensions say.
    fn rows(&self, rows: usize) -> Option<Vec<&'a [u8]>> {
        let elements = self.shape.iter().try_fold(1usize, |n, dim| n.checked_mul(usize::try_from(*dim).ok()?))?;
        let a_row = elements.checked_div(rows)?;
        if a_row.checked_mul(rows)? != elements {
            return None;
        }
        let mut rest = self.bytes;
        let mut take = || {
            let length = match self.datatype.size() {
                Some(size) => a_row.checked_mul(size)?,
                None => texts(rest, a_row)?,
            };
            let (row, left) = rest.split_at_checked(length)?;
            rest = left;
            Some(row)
        };
        let found: Option<Vec<_>> = (0..rows).map(|_| take()).collect();
        found.filter(|_| rest.is_empty())
    }
}

/// Bytes of the first `count` texts, each with its length before it.
fn texts(bytes: &[u8], count: usize) -> Option<usize> {
    let mut rest = bytes;
    for _ in 0..count {
        let (length, behind) = rest.split_first_chunk::<4>()?;
        rest = behind.get(usize::try_from(u32::from_le_bytes(*length)).ok()?..)?;
    }
    bytes.len().checked_sub(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `values` as a tensor's bytes.
    fn encoded(datatype: DataType, values: &[f64]) -> Vec<u8> {
        let one = |v: f64| match datatype {
            DataType::Fp16 => f16::from_f64(v).to_le_bytes().to_vec(),
            DataType::Bf16 => bf16::from_f64(v).to_le_bytes().to_vec(),
            DataType::Fp32 => (v as f32).to_le_bytes().to_vec(),
            DataType::Fp64 => v.to_le_bytes().to_vec(),
            DataType::Int64 => (v as i64).to_le_bytes().to_vec(),
            DataType::Uint8 => (v as u8).to_le_bytes().to_vec(),
            other => panic!("{other}"),
        };
        values.iter().flat_map(|v| one(*v)).collect()
    }

    /// Pairs of one output with `rows` rows.
    fn pairs(likeness: Likeness, rows: i64, a: (DataType, &[f64]), b: (DataType, &[f64])) -> Pairs {
        let shape = [rows, a.1.len() as i64 / rows.max(1)];
        let (ours, theirs) = (encoded(a.0, a.1), encoded(b.0, b.1));
        let of = |datatype, bytes| Answer { name: "y", datatype, shape: &shape, bytes };
        compare(likeness, true, &[of(a.0, &ours)], &[of(b.0, &theirs)])
    }

    const ALL: [Likeness; 3] = [Likeness::Classes, Likeness::Cosine(0.99), Likeness::Close];
    const TYPES: [DataType; 6] = [DataType::Fp16, DataType::Bf16, DataType::Fp32, DataType::Fp64, DataType::Int64, DataType::Uint8];
    const FLOATS: [DataType; 4] = [DataType::Fp16, DataType::Bf16, DataType::Fp32, DataType::Fp64];

    fn bad(likeness: Likeness, datatype: DataType, a: &[f64], b: &[f64]) -> u64 {
        pairs(likeness, 1, (datatype, a), (datatype, b)).disagreed
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn an_answer_agrees_with_itself_and_each_row_counts_once(rows in 1usize..6, values in prop::collection::vec(-100.0..100.0_f64, 4), kind in 0usize..6) {
            let datatype = TYPES[kind];
            let all: Vec<f64> = (0..rows).flat_map(|r| values.iter().map(move |v| v + r as f64)).collect();
            for likeness in ALL {
                let same = pairs(likeness, rows as i64, (datatype, &all), (datatype, &all));
                prop_assert_eq!(same, Pairs { compared: rows as u64, disagreed: 0 });
            }
        }

        #[test]
        fn rounding_to_another_type_is_agreement_and_order_of_sides_does_not_matter(values in prop::collection::vec(1.0..100.0_f64, 8), a in 0usize..4, b in 0usize..4) {
            let (a, b) = (FLOATS[a], FLOATS[b]);
            for likeness in [Likeness::Cosine(0.99), Likeness::Close] {
                prop_assert_eq!(pairs(likeness, 2, (a, &values), (b, &values)).disagreed, 0);
                prop_assert_eq!(pairs(likeness, 2, (b, &values), (a, &values)).disagreed, 0);
            }
        }

        #[test]
        fn only_the_rows_that_differ_disagree(flags in prop::collection::vec(any::<bool>(), 1..8), kind in 0usize..6) {
            let row = |flipped: bool| if flipped { [9.0, 1.0, 2.0] } else { [1.0, 2.0, 9.0] };
            let ours: Vec<f64> = flags.iter().flat_map(|_| row(false)).collect();
            let theirs: Vec<f64> = flags.iter().flat_map(|flag| row(*flag)).collect();
            let expected = Pairs { compared: flags.len() as u64, disagreed: flags.iter().filter(|flag| **flag).count() as u64 };
            for likeness in ALL {
                prop_assert_eq!(pairs(likeness, flags.len() as i64, (TYPES[kind], &ours), (TYPES[kind], &theirs)), expected);
            }
        }

        #[test]
        fn any_bytes_are_judged_without_a_panic(ours in prop::collection::vec(any::<u8>(), 0..40), theirs in prop::collection::vec(any::<u8>(), 0..40), rows in -2i64..9, wide in -2i64..9, kind in 0usize..14, other in 0usize..14) {
            let shape = [rows, wide];
            let of = |datatype, bytes| Answer { name: "y", datatype, shape: &shape, bytes };
            for likeness in ALL {
                let (a, b) = ([of(DataType::ALL[kind], &ours[..])], [of(DataType::ALL[other], &theirs[..])]);
                let found = compare(likeness, true, &a, &b);
                prop_assert!(found.disagreed <= found.compared && found.compared == u64::try_from(rows).unwrap_or_default());
            }
        }
    }

    #[test]
    fn each_metric_judges_what_it_is_about() {
        let (scores, halved, other) = ([0.1, 0.7, 0.2], [0.05, 0.35, 0.1], [0.4, 0.35, 0.25]);
        for datatype in FLOATS {
            assert_eq!(ALL.map(|likeness| bad(likeness, datatype, &scores, &halved)), [0, 0, 1], "{datatype}: same class, same direction");
            assert_eq!(ALL.map(|likeness| bad(likeness, datatype, &scores, &other)), [1, 1, 1], "{datatype}");
        }
        assert_eq!(bad(Likeness::Cosine(0.9), DataType::Fp32, &[1.0, 0.0], &[1.0, 0.5]), 1);
        assert_eq!(bad(Likeness::Cosine(0.8), DataType::Fp32, &[1.0, 0.0], &[1.0, 0.5]), 0);
        assert_eq!(bad(Likeness::Cosine(0.9), DataType::Fp32, &[0.0, 0.0], &[1.0, 0.5]), 1, "no direction");
        assert_eq!(bad(Likeness::Close, DataType::Fp32, &[1.0], &[1.002]), 1);
        assert_eq!(bad(Likeness::Close, DataType::Fp16, &[1.0], &[1.002]), 0);
        assert_eq!(bad(Likeness::Close, DataType::Int64, &[7.0], &[8.0]), 1, "whole numbers do not round");
    }

    #[test]
    fn what_is_no_number_agrees_only_with_itself() {
        for likeness in ALL {
            assert_eq!(bad(likeness, DataType::Fp32, &[f64::NAN, f64::NAN], &[1.0, 2.0]), 1, "{likeness:?}");
        }
        assert_eq!(bad(Likeness::Close, DataType::Fp32, &[f64::INFINITY], &[1e30]), 1);
        assert_eq!(pairs(Likeness::Close, 1, (DataType::Fp32, &[f64::NAN]), (DataType::Fp16, &[f64::NAN])).disagreed, 0);
    }

    #[test]
    fn texts_are_compared_row_by_row_and_a_missing_output_disagrees_throughout() {
        let text =
            |words: &[&str]| words.iter().flat_map(|w| [&(w.len() as u32).to_le_bytes()[..], w.as_bytes()].concat()).collect::<Vec<u8>>();
        let (ours, theirs) = (text(&["a", "long", "c"]), text(&["a", "other one", "c"]));
        let of = |name, bytes| Answer { name, datatype: DataType::Bytes, shape: &[3, 1], bytes };
        let found = compare(Likeness::Close, true, &[of("y", &ours[..])], &[of("y", &theirs[..])]);
        assert_eq!(found, Pairs { compared: 3, disagreed: 1 });
        let all = Pairs { compared: 3, disagreed: 3 };
        for likeness in ALL {
            assert_eq!(compare(likeness, true, &[of("y", &ours[..])], &[of("z", &ours[..])]), all);
            assert_eq!(compare(likeness, true, &[of("y", &ours[..])], &[]), all);
        }
        assert_eq!(compare(Likeness::Close, false, &[of("y", &ours[..])], &[of("y", &theirs[..])]), Pairs { compared: 1, disagreed: 1 });
    }

    #[test]
    fn the_metric_of_the_card_goes_before_what_outputs_look_like() {
        let of = |metric, labelled, name| Likeness::of(metric, 0.9, labelled, Some(name));
        assert_eq!(of(Some(Metric::Cosine), true, "logits"), Likeness::Cosine(0.9));
        assert_eq!([of(Some(Metric::Labels), false, "y"), of(Some(Metric::Agreement), false, "y")], [Likeness::Classes; 2]);
        assert_eq!([of(None, true, "y"), of(None, false, "Softmax:0")], [Likeness::Classes; 2]);
        assert_eq!(of(None, false, "embedding"), Likeness::Close);
    }
}
