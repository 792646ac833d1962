//! What the client scripts say, and the table of calls and clients made from it: `docs/compatibility.md`.
//!
//! A script prints `case<TAB>ok` or `case<TAB>FAIL reason` for each case, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

/// The cases of one client in the order in which it made them; an error is why it failed.
pub type Cases = Vec<(String, Result<(), String>)>;

/// Reads what a script printed.
///
/// # Errors
///
/// Names the first line that is no case or repeats one, or says that there is none: a script that stopped early must not count.
pub fn parse(output: &str) -> Result<Cases, String> {
    let mut seen = BTreeSet::new();
    let mut cases = Cases::new();
    for line in output.lines() {
        let (case, said) = line.split_once('\t').ok_or_else(|| format!("not a case: `{line}`"))?;
        let result = match said.split_once(' ') {
            None if said == "ok" => Ok(()),
            Some(("FAIL", reason)) => Err(reason.to_owned()),
            _ => return Err(format!("neither ok nor FAIL with a reason: `{line}`")),
        };
        if !seen.insert(case) {
            return Err(format!("the case `{case}` came twice"));
        }
        cases.push((case.to_owned(), result));
    }
    if cases.is_empty() { Err("no case at all".to_owned()) } else { Ok(cases) }
}

/// One row per call, one column per client: ✓ it works, ✗ it does not, – this client was not asked for it. Below, why what fails does.
///
/// Rows come in the order of the client that makes most calls, then of the next.
pub fn render(clients: &BTreeMap<String, Cases>) -> String {
    let mut by_size: Vec<&Cases> = clients.values().collect();
    by_size.sort_by_key(|cases| std::cmp::Reverse(cases.len())); // stable: equal ones stay in the order of their names
    let mut rows: Vec<&str> = Vec::new();
    for (case, _) in by_size.into_iter().flatten() {
        if !rows.contains(&case.as_str()) {
            rows.push(case);
        }
    }
    let line = |first: &str, cells: Vec<&str>| format!("| {first} | {} |\n", cells.join(" | "));
    let mut text = line("call", clients.keys().map(String::as_str).collect());
    text.push_str(&line("---", vec![":-:"; clients.len()]));
    for row in rows {
        let mark = |cases: &Cases| match cases.iter().find(|(case, _)| case == row) {
            Some((_, Ok(()))) => "✓",
            Some((_, Err(_))) => "✗",
            None => "–",
        };
        text.push_str(&line(row, clients.values().map(mark).collect()));
    }
    let failures = clients.iter().flat_map(|(client, cases)| {
        cases.iter().filter_map(move |(case, result)| Some(format!("* {client}, {case}: {}\n", result.as_ref().err()?)))
    });
    let failures: String = failures.collect();
    if !failures.is_empty() {
        text.push('\n');
        text.push_str(&failures);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_works_fails_or_does_not_exist_is_told_apart_for_each_client() {
        let clients = BTreeMap::from([
            ("curl".to_owned(), parse("gzip\tok\nchunked\tok\n").unwrap()),
            ("grpc".to_owned(), parse("infer-fp32\tok\nstream\tFAIL got 4 999 answers\ngzip\tok\n").unwrap()),
        ]);
        let want = "\
| call | curl | grpc |
| --- | :-: | :-: |
| infer-fp32 | – | ✓ |
| stream | – | ✗ |
| gzip | ✓ | ✓ |
| chunked | ✓ | – |

* grpc, stream: got 4 999 answers
";
        assert_eq!(render(&clients), want);
    }

    #[test]
    fn output_that_is_not_one_line_per_case_is_refused() {
        for (output, named) in [
            ("", "no case"),
            ("gzip\tok\nTraceback (most recent call last):\n", "Traceback"),
            ("gzip\tfine\n", "gzip"),
            ("gzip\tFAIL\n", "gzip"),
            ("gzip\tok\ngzip\tok\n", "twice"),
        ] {
            let error = parse(output).unwrap_err();
            assert!(error.contains(named), "{output:?}: {error}");
        }
    }
}
