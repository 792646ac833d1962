//! `get`: records as a table or as JSON, once or at every change.

use crate::args::{Get, Kind, Output};
use crate::client;
use crate::telemetry::say;
use proto::sluice::admin_client::AdminClient;
use proto::sluice::{GetRequest, Record};
use serde_json::Value;
use tonic::transport::Channel;

pub(crate) async fn run(args: Get) -> anyhow::Result<()> {
    let mut client = client::admin(&args.server.server).await?;
    let request = GetRequest { kind: kind(args.kind).to_owned(), name: args.name.clone() };
    if !args.watch {
        let answer = client.get(request).await.map_err(|s| client::said(&s))?.into_inner();
        let records = told(&mut client, &args, answer.records).await?;
        return show(&args, &records);
    }
    let mut answers = client.watch(request).await.map_err(|s| client::said(&s))?.into_inner();
    while let Some(answer) = answers.message().await.map_err(|s| client::said(&s))? {
        let records = told(&mut client, &args, answer.records).await?;
        show(&args, &records)?;
        if args.output == Output::Table {
            say("");
        }
    }
    Ok(())
}

/// What a table of models says of each besides its record: whether it is asleep, which the leader knows.
async fn told(client: &mut AdminClient<Channel>, args: &Get, mut records: Vec<Record>) -> anyhow::Result<Vec<Record>> {
    if args.output != Output::Table || kind(args.kind) != "models" {
        return Ok(records);
    }
    let request = GetRequest { kind: "plan".to_owned(), name: args.name.clone() };
    let plans = client.get(request).await.map_err(|s| client::said(&s))?.into_inner().records;
    let plans: Vec<Value> = plans.iter().filter_map(|plan| serde_json::from_str(&plan.json).ok()).collect();
    for record in &mut records {
        let mut value: Value = serde_json::from_str(&record.json)?;
        let plan = plans.iter().find(|plan| plan.get("model") == value.get("name"));
        let rest = plan.and_then(|plan| plan.pointer("/idle/rest")).cloned();
        if let (Some(rest), Some(fields)) = (rest, value.as_object_mut()) {
            fields.insert("rest".to_owned(), rest);
            record.json = value.to_string();
        }
    }
    Ok(records)
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Models => "models",
        Kind::Variants => "variants",
        Kind::Workers => "workers",
        Kind::Replicas => "replicas",
        Kind::Placements => "placements",
        Kind::Profiles => "profiles",
        Kind::Plan => "plan",
        Kind::Demand => "demand",
        Kind::Rollouts => "rollouts",
    }
}

fn show(args: &Get, records: &[Record]) -> anyhow::Result<()> {
    let values: Vec<Value> = records.iter().map(|r| serde_json::from_str(&r.json)).collect::<Result<_, _>>()?;
    match args.output {
        // One document on one line per change, so that a program can read a watch line by line.
        Output::Json if args.watch => say(&serde_json::to_string(&values)?),
        Output::Json => say(&serde_json::to_string_pretty(&values)?),
        Output::Table if args.kind == Kind::Rollouts => {
            let values: Vec<Value> = values.into_iter().map(rollout).collect();
            say(&table(columns(args.kind), &values));
        }
        Output::Table => say(&table(columns(args.kind), &values)),
    }
    Ok(())
}

/// A rollout's record with what a row shows of it: the evidence of the step it is at, how it stands and why.
fn rollout(mut record: Value) -> Value {
    let at = |pointer: &str| record.pointer(pointer).cloned();
    let mut last = at("/progress/evidence").and_then(|all| all.as_array()?.last().cloned()).unwrap_or_default();
    for field in ["/rate", "/llr", "/burn"] {
        if let Some(number) = last.pointer_mut(field).filter(|number| number.is_f64()) {
            *number = Value::from(number.as_f64().map_or_else(String::new, |n| format!("{n:.4}")));
        }
    }
    let steps = at("/rollout/weights").and_then(|weights| weights.as_array().map(Vec::len)).unwrap_or_default();
    let step = at("/progress/step").and_then(|step| step.as_u64()).unwrap_or_default().saturating_add(1);
    let (state, reason) = match at("/progress/end") {
        Some(Value::String(end)) => (end, Value::Null),
        Some(end) => ("rolled_back".to_owned(), end.pointer("/rolled_back").cloned().unwrap_or_default()),
        None if record.get("baseline").is_none() => ("waits".to_owned(), at("/waits").unwrap_or_default()),
        None => ("runs".to_owned(), at("/waits").unwrap_or_default()),
    };
    if let Some(fields) = record.as_object_mut() {
        fields.insert("last".to_owned(), last);
        fields.insert("step".to_owned(), format!("{step}/{steps}").into());
        fields.insert("state".to_owned(), state.into());
        fields.insert("reason".to_owned(), reason);
    }
    record
}

/// Title of a column, and where its value is in the record.
type Column = (&'static str, &'static str);

fn columns(kind: Kind) -> &'static [Column] {
    match kind {
        Kind::Models => &[
            ("MODEL", "/name"),
            ("WANTED", "/wanted"),
            ("RESTS", "/rest"),
            ("VERSIONS", "/versions"),
            ("REPLICAS", "/replicas"),
            ("PROVIDER", "/provider"),
        ],
        Kind::Variants => &[
            ("VARIANT", "/variant"),
            ("VALIDATION", "/validation/state"),
            ("REPLICAS", "/replicas"),
            ("BYTES", "/bytes_resident"),
            ("ACCURACY", "/accuracy"),
            ("SPEED", "/speed"),
            ("REASON", "/validation/reason"),
        ],
        Kind::Workers => &[
            ("WORKER", "/id"),
            ("DATA", "/data"),
            ("HOST", "/host"),
            ("ZONE", "/zone"),
            ("CLASS", "/devices/0/class"),
            ("EPOCH", "/epoch"),
            ("DRAINING", "/draining"),
        ],
        Kind::Replicas => &[
            ("WORKER", "/worker"),
            ("VARIANT", "/variant"),
            ("STATE", "/state"),
            ("DEVICE", "/device"),
            ("PROVIDER", "/provider"),
            ("INSTANCES", "/instances"),
            ("BYTES", "/bytes_resident"),
            ("REASON", "/reason"),
            ("RELOADING", "/reloading"),
        ],
        Kind::Placements => &[
            ("WORKER", "/worker"),
            ("VARIANT", "/variant"),
            ("DEVICE", "/device"),
            ("EPOCH", "/epoch"),
            ("STATE", "/state"),
            ("REASON", "/reason"),
        ],
        Kind::Profiles => &[
            ("ARTIFACT", "/artifact"),
            ("CLASS", "/class"),
            ("ENGINE", "/engine"),
            ("HINT", "/hint"),
            ("US A ROW", "/alpha_us"),
            ("US A BATCH", "/beta_us"),
            ("SPEED", "/speed"),
            ("OFF BY", "/off_by"),
        ],
        Kind::Plan => &[("MODEL", "/model"), ("ROWS/S", "/rate"), ("SHARES", "/shares"), ("NOT AS WANTED", "/unplaced")],
        Kind::Demand => &[("GATEWAY", "/gateway"), ("ROWS/S", "/models")],
        Kind::Rollouts => &[
            ("MODEL", "/model"),
            ("CANDIDATE", "/rollout/candidate"),
            ("BASELINE", "/baseline"),
            ("STEP", "/step"),
            ("WEIGHT", "/weight"),
            ("PAIRS", "/last/pairs/compared"),
            ("SKIPPED", "/skipped"),
            ("RATE", "/last/rate"),
            ("LLR", "/last/llr"),
            ("BURN", "/last/burn"),
            ("STATE", "/state"),
            ("REASON", "/reason"),
        ],
    }
}

fn table(columns: &[Column], values: &[Value]) -> String {
    let cell = |value: &Value, pointer: &str| match value.pointer(pointer) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => printable(text),
        Some(Value::Object(map)) => map.iter().map(|(k, v)| format!("{k}={}", state(v))).collect::<Vec<_>>().join(" "),
        Some(other) => other.to_string(),
    };
    let header: Vec<String> = columns.iter().map(|(title, _)| (*title).to_owned()).collect();
    let rows = values.iter().map(|value| columns.iter().map(|(_, pointer)| cell(value, pointer)).collect());
    let rows: Vec<Vec<String>> = std::iter::once(header).chain(rows).collect();
    let width = |i: usize| rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0);
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().enumerate().map(|(i, c)| format!("{c:<w$}", w = width(i))).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A replica's state in a few characters.
fn state(value: &Value) -> String {
    value.get("state").and_then(Value::as_str).map_or_else(|| value.to_string(), str::to_owned)
}

/// A record may come from anyone who can write to the registry: no control characters reach the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::rollout::{Action, Counts, Guard, Pairs, Rollout};
    use policy::{ModelName, Moment, RolloutRecord, Slo, Version};

    #[test]
    fn a_rollout_is_one_row_that_says_how_far_it_is_or_why_it_ended() {
        let wanted: Rollout = serde_json::from_value(serde_json::json!({ "candidate": { "version": 2 }, "null_rate": 0.005 })).unwrap();
        let mut record = RolloutRecord::new(ModelName::new("m").unwrap(), 7, wanted.clone());
        record.waits = Some("no worker offers version 2".to_owned());
        let row = |record: &RolloutRecord| {
            let text = table(columns(Kind::Rollouts), &[rollout(serde_json::to_value(record).unwrap())]);
            text.lines().nth(1).unwrap().split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(row(&record), "m version=2 - 1/4 0.0 - 0 - - - waits no worker offers version 2");
        (record.baseline, record.weight) = (Some(Version::parse("1").unwrap()), 0.01);
        let guard = Guard::new(&wanted, None, &Slo::default());
        let counts = Counts { look: 1, pairs: Pairs { compared: 100, disagreed: 1 }, ..Counts::default() };
        let Action::Hold(waits) = record.progress.decide(&guard, Moment::default(), 0, &counts) else { panic!("it holds") };
        record.waits = Some(waits);
        assert_eq!(row(&record), "m version=2 1 1/4 0.01 100 0 0.0100 -0.4008 0.0000 runs step 1 of 4 holds for 300 s more");
        let counts = Counts { pairs: Pairs { compared: 100, disagreed: 50 }, ..counts };
        assert!(matches!(record.progress.decide(&guard, Moment::default(), 0, &counts), Action::RollBack(_)));
        assert!(row(&record).contains("rolled_back 50 of 100 compared pairs disagree (50.00 %)"), "{}", row(&record));
        record.progress.end = Some(policy::rollout::End::Promoted);
        assert!(row(&record).ends_with("promoted -"), "{}", row(&record));
    }
}
