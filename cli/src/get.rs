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
    }
}

fn show(args: &Get, records: &[Record]) -> anyhow::Result<()> {
    let values: Vec<Value> = records.iter().map(|r| serde_json::from_str(&r.json)).collect::<Result<_, _>>()?;
    match args.output {
        // One document on one line per change, so that a program can read a watch line by line.
        Output::Json if args.watch => say(&serde_json::to_string(&values)?),
        Output::Json => say(&serde_json::to_string_pretty(&values)?),
        Output::Table => say(&table(columns(args.kind), &values)),
    }
    Ok(())
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
