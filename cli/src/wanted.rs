//! `apply`, `model load`, `model unload`, `model delete`: change what is wanted, and report until it is so.

use crate::args::{Apply, Delete, Named};
use crate::client;
use crate::telemetry::say;
use anyhow::Context as _;
use policy::ModelRecord;
use policy::wanted::{self, Written};
use proto::sluice::{ApplyRequest, DeleteRequest};
use std::collections::BTreeSet;
use std::process::ExitCode;

pub(crate) async fn apply(args: Apply) -> anyhow::Result<ExitCode> {
    let text = std::fs::read_to_string(&args.file).with_context(|| format!("{}", args.file.display()))?;
    let models = read(&text).with_context(|| format!("{}", args.file.display()))?;
    send(&args.server.server, models, args.wait, false).await
}

pub(crate) async fn load(args: Named) -> anyhow::Result<ExitCode> {
    let model = current(&args, true).await?;
    send(&args.server.server, vec![model], args.wait, true).await
}

pub(crate) async fn unload(args: Named) -> anyhow::Result<ExitCode> {
    let model = current(&args, false).await?;
    send(&args.server.server, vec![model], args.wait, false).await
}

pub(crate) async fn delete(args: Delete) -> anyhow::Result<ExitCode> {
    let Delete { named, force } = args;
    let request = DeleteRequest { model: named.model.clone(), force, wait_ms: named.wait.saturating_mul(1000) };
    let answer = client::admin(&named.server.server).await?.delete(request).await.map_err(|s| client::said(&s))?.into_inner();
    say(&match answer.note.as_str() {
        "" => format!("{}: deleted", named.model),
        note => format!("{}: deleted, but {note}", named.model),
    });
    Ok(ExitCode::SUCCESS)
}

/// The `[[model]]` entries as JSON records.
pub(crate) fn read(text: &str) -> anyhow::Result<Vec<String>> {
    let mut table: toml::Table = toml::from_str(text)?;
    let models = table.remove("model").context("expected at least one [[model]] entry")?;
    if let Some((name, _)) = table.iter().next() {
        anyhow::bail!("`{name}` is not known; expected only [[model]] entries");
    }
    let toml::Value::Array(models) = models else { anyhow::bail!("`model` is not a list: write [[model]]") };
    let models: Vec<serde_json::Value> = models.into_iter().map(serde_json::to_value).collect::<Result<_, _>>()?;
    // All that the server would say, so that one reading of the file tells everything, and more: a newer version's field in a record is
    // kept there, in a person's file an unknown name is a typing mistake.
    let written = models.iter().map(|model| match model.as_object() {
        Some(fields) => {
            let unknown = fields.keys().filter(|name| !ModelRecord::FIELDS.contains(&name.as_str()));
            let unknown = unknown.map(|name| wanted::unknown(name, name, ModelRecord::FIELDS.iter().copied()));
            let problems = unknown.chain(wanted::not_finite(fields)).collect();
            Written { fields: Some(fields.clone()), problems }
        }
        None => Written { fields: None, problems: vec!["is not a table: write [[model]]".to_owned()] },
    });
    if let Err(problems) = wanted::read_all(written) {
        anyhow::bail!("nothing is applied:\n{}", problems.join("\n"));
    }
    Ok(models.iter().map(serde_json::Value::to_string).collect())
}

/// The model's record as it is, wanted or not, so that its settings stay.
async fn current(args: &Named, wanted: bool) -> anyhow::Result<String> {
    let request = proto::sluice::GetRequest { kind: "models".to_owned(), name: args.model.clone() };
    let answer = client::admin(&args.server.server).await?.get(request).await.map_err(|s| client::said(&s))?.into_inner();
    let found = answer.records.into_iter().find(|r| r.key == format!("models/{}", args.model));
    let mut record = match found {
        Some(record) => serde_json::from_str(&record.json)?,
        None => serde_json::json!({ "name": args.model }),
    };
    record.as_object_mut().context("the record is not an object")?.insert("wanted".to_owned(), wanted.into());
    Ok(record.to_string())
}

/// Sends the change and prints each model's state as it changes; fails when one ends other than wanted.
async fn send(server: &str, models: Vec<String>, wait: u32, reload: bool) -> anyhow::Result<ExitCode> {
    let request = ApplyRequest { models, wait_ms: wait.saturating_mul(1000), reload };
    let mut answers = client::admin(server).await?.apply(request).await.map_err(|s| client::said(&s))?.into_inner();
    let (mut failed, mut told) = (false, BTreeSet::new());
    while let Some(answer) = answers.message().await.map_err(|s| client::said(&s))? {
        failed |= answer.state == "failed";
        let line = match answer.reason.as_str() {
            "" => format!("{}: {}", answer.model, answer.state),
            reason => format!("{}: {}: {reason}", answer.model, answer.state),
        };
        if told.insert(line.clone()) {
            say(&line);
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn only_model_entries_are_taken() {
        assert_eq!(read("[[model]]\nname = \"m\"\nreplicas = 2").unwrap(), [r#"{"name":"m","replicas":2}"#]);
        assert!(read("[[modle]]\nname = \"m\"").is_err());
        assert!(read("other = 1\n[[model]]\nname = \"m\"").unwrap_err().to_string().contains("`other`"));
    }

    #[test]
    fn every_problem_of_a_file_is_told_at_once_with_its_path() {
        let text =
            "[[model]]\nname = \"m\"\nreplica = 2\nweight = inf\n[[model]]\nname = \"n\"\nidle_s = 0\nslo = { min_accuracy = 1.2 }\n";
        let error = read(text).unwrap_err().to_string();
        let lines: Vec<&str> = error.lines().collect();
        let expected = [
            "nothing is applied:",
            "models[0] (m): `replica` is not known; did you mean `replicas`?",
            "models[0] (m): weight: inf or nan; expected a finite number",
            "models[1] (n): slo.min_accuracy: 1.2; expected 0 to 1",
            "models[1] (n): idle_s: 0; expected at least 1; leave it out to keep replicas always",
        ];
        assert_eq!(lines, expected);
    }
}
