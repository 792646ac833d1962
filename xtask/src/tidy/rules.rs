//! The rules, each from files to problems.

use std::collections::{BTreeMap, BTreeSet};

/// One line a problem, beginning with the file.
pub(super) type Problems = Vec<String>;

pub(super) struct SourceFile {
    pub(super) name: String,
    pub(super) bytes: usize,
    /// Empty for a file that is no text.
    pub(super) text: String,
}

/// Which of our crates each may import; `tests` and `sluice` (the folder `cli`) may import all.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("policy", &[]),
    ("proto", &["policy"]),
    ("registry", &["policy", "proto"]),
    ("gateway", &["policy", "proto", "registry"]),
    ("worker", &["policy", "proto", "registry"]),
    ("controller", &["policy", "proto", "registry"]),
    ("variants", &["policy"]),
    ("loadtest", &["policy", "proto", "registry"]),
    ("bench", &["policy", "proto", "registry", "gateway", "worker", "variants", "loadtest"]),
    ("demo", &["policy", "proto"]),
    ("xtask", &[]),
];
const MAY_IMPORT_ALL: &[&str] = &["sluice", "tests"];

const LINES_MAX: usize = 600;
const BYTES_MAX: usize = 1_000_000;
const SINGLE_VERSION: &[&str] = &["h2", "hyper", "prost", "rustls", "tonic"];

/// What a crate is built from; its tests may import more (`dev-dependencies`).
pub(super) fn import_direction(files: &[SourceFile]) -> Problems {
    let mut problems = Problems::new();
    for file in files.iter().filter(|file| file.name.ends_with("/Cargo.toml")) {
        let manifest: toml::Table = match toml::from_str(&file.text) {
            Ok(manifest) => manifest,
            Err(error) => {
                problems.push(format!("{}: {error}", file.name));
                continue;
            }
        };
        let package = manifest.get("package").and_then(|package| package.get("name")?.as_str()).unwrap_or_default();
        if MAY_IMPORT_ALL.contains(&package) {
            continue;
        }
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == package) else {
            problems.push(format!("{}: crate `{package}` is not in xtask's list of who may import whom", file.name));
            continue;
        };
        let ours = |name: &str| MAY_IMPORT_ALL.contains(&name) || MAY_IMPORT.iter().any(|(known, _)| *known == name);
        for dependency in dependencies(&manifest) {
            if ours(&dependency) && !allowed.contains(&dependency.as_str()) {
                problems.push(format!("{}: `{package}` must not import `{dependency}`", file.name));
            }
        }
    }
    problems
}

fn dependencies(manifest: &toml::Table) -> BTreeSet<String> {
    let targets = manifest.get("target").and_then(toml::Value::as_table).into_iter().flat_map(|targets| targets.values());
    let tables = std::iter::once(manifest).chain(targets.filter_map(toml::Value::as_table));
    let sections = tables.flat_map(|table| ["dependencies", "build-dependencies"].map(|section| table.get(section)));
    let entries = sections.flatten().filter_map(toml::Value::as_table).flatten();
    entries.map(|(name, value)| value.get("package").and_then(toml::Value::as_str).unwrap_or(name).to_owned()).collect()
}

/// A longer file is fine if its first comment has `length:` and the reason.
pub(super) fn file_length(files: &[SourceFile]) -> Problems {
    let long = rust(files).filter(|file| file.text.lines().count() > LINES_MAX);
    long.filter(|file| {
        let comment = file.text.lines().take_while(|line| line.starts_with("//"));
        !comment.into_iter().any(|line| line.split_once("length:").is_some_and(|(_, reason)| !reason.trim().is_empty()))
    })
    .map(|file| {
        let lines = file.text.lines().count();
        format!("{}: {lines} lines, over {LINES_MAX}: split it, or give a reason after `length:` in its first comment", file.name)
    })
    .collect()
}

pub(super) fn file_size(files: &[SourceFile]) -> Problems {
    let large = files.iter().filter(|file| file.bytes > BYTES_MAX);
    large.map(|file| format!("{}: {} bytes, over {BYTES_MAX}", file.name, file.bytes)).collect()
}

/// The folder beside a checkout that only its authors have.
pub(super) fn shared_folder(files: &[SourceFile]) -> Problems {
    let needle = ["..", "shared"].join("/");
    let naming = files.iter().filter(|file| file.text.contains(&needle));
    naming.map(|file| format!("{}: names {needle}, which is no part of this repository", file.name)).collect()
}

pub(super) fn single_versions(files: &[SourceFile]) -> Problems {
    let Some(lock) = files.iter().find(|file| file.name == "Cargo.lock") else {
        return vec!["Cargo.lock: missing".to_owned()];
    };
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut name = "";
    for line in lock.text.lines() {
        if let Some(value) = line.strip_prefix("name = ") {
            name = value.trim_matches('"');
        } else if let Some(value) = line.strip_prefix("version = ") {
            versions.entry(name).or_default().insert(value.trim_matches('"'));
        }
    }
    let several = versions.iter().filter(|(name, versions)| SINGLE_VERSION.contains(name) && versions.len() > 1);
    several.map(|(name, versions)| format!("Cargo.lock: {name} in versions {versions:?}, wanted one")).collect()
}

/// ARCHITECTURE.md lists the invariants (`- I1 ...` or `| I1 | ...`); each is named by a test `i1_...`.
pub(super) fn invariants_tested(files: &[SourceFile]) -> Problems {
    let Some(map) = files.iter().find(|file| file.name == "ARCHITECTURE.md") else {
        return vec!["ARCHITECTURE.md: missing, so no invariant is listed".to_owned()];
    };
    let listed: BTreeSet<u32> = map.text.lines().filter_map(listed_invariant).collect();
    if listed.is_empty() {
        return vec!["ARCHITECTURE.md: no line begins with `- I1 ` or `| I1 |`".to_owned()];
    }
    let tested: BTreeSet<u32> = rust(files).flat_map(|file| tested_invariants(&file.text)).collect();
    let untested = listed.difference(&tested);
    untested.map(|id| format!("ARCHITECTURE.md: no test is named `i{id}_...`, so nothing fails when I{id} is broken")).collect()
}

fn listed_invariant(line: &str) -> Option<u32> {
    let rest = line.strip_prefix("- ").or_else(|| line.strip_prefix("| "))?;
    let rest = rest.trim_start_matches('*').trim_start_matches('`').strip_prefix('I')?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

fn tested_invariants(text: &str) -> Vec<u32> {
    let mut is_test = false; // an attribute above says so
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[") {
            is_test |= line.contains("test");
        } else if let Some((_, name)) = line.split_once("fn i").filter(|(before, _)| ["", "async "].contains(before)) {
            let id: Option<u32> = name.split_once('_').and_then(|(id, _)| id.parse().ok());
            found.extend(id.filter(|_| is_test));
            is_test = false;
        } else if !line.is_empty() && !line.starts_with("//") {
            is_test = false;
        }
    }
    found
}

fn rust(files: &[SourceFile]) -> impl Iterator<Item = &SourceFile> {
    files.iter().filter(|file| file.name.ends_with(".rs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> SourceFile {
        SourceFile { name: name.to_owned(), bytes: text.len(), text: text.to_owned() }
    }

    #[test]
    fn an_upward_import_is_found_wherever_it_is_written() {
        let manifest = |dependencies: &str| [file("worker/Cargo.toml", &format!("[package]\nname = \"worker\"\n{dependencies}"))];
        let fine = "[dependencies]\npolicy.workspace = true\nbytes = \"1\"\n[dev-dependencies]\ngateway.workspace = true";
        assert_eq!(import_direction(&manifest(fine)), Problems::new());
        for bad in [
            "[dependencies]\ngateway.workspace = true",
            "[build-dependencies]\ngateway = { path = \"../gateway\" }",
            "[dependencies]\nother = { package = \"gateway\", version = \"1\" }",
            "[target.'cfg(unix)'.dependencies]\ngateway.workspace = true",
            "[dependencies]\nsluice = { path = \"../cli\" }",
        ] {
            assert_eq!(import_direction(&manifest(bad)).len(), 1, "{bad}");
        }
        assert_eq!(import_direction(&[file("new/Cargo.toml", "[package]\nname = \"new\"")]).len(), 1);
    }

    #[test]
    fn a_long_file_without_a_reason_is_found() {
        let body = "\n".repeat(LINES_MAX);
        let lengths = |first: &str| file_length(&[file("a.rs", &format!("{first}\n{body}"))]).len();
        assert_eq!(lengths("//! length: one table"), 0);
        assert_eq!([lengths("//! A table"), lengths("//! length:"), lengths("fn a() {} // length: no")], [1, 1, 1]);
        assert_eq!(file_length(&[file("a.md", &body), file("b.rs", &body)]).len(), 0);
    }

    #[test]
    fn a_large_file_is_found() {
        let large = SourceFile { name: "model.onnx".to_owned(), bytes: BYTES_MAX + 1, text: String::new() };
        assert_eq!(file_size(&[large, file("a.rs", "")]).len(), 1);
    }

    #[test]
    fn a_mention_of_the_shared_folder_is_found() {
        let text = format!("see {}/x.md", ["..", "shared"].join("/"));
        assert_eq!(shared_folder(&[file("a.md", &text), file("b.md", "shared/x.md")]).len(), 1);
    }

    #[test]
    fn a_second_version_is_found() {
        let entry = |name: &str, version: &str| format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n");
        let lock = |text: String| single_versions(&[file("Cargo.lock", &text)]).len();
        assert_eq!(lock(entry("tonic", "0.14.9") + &entry("rand", "0.8.0") + &entry("rand", "0.9.0")), 0);
        assert_eq!(lock(entry("tonic", "0.14.9") + &entry("tonic", "0.13.0")), 1);
        assert_eq!(single_versions(&[]).len(), 1);
    }

    #[test]
    fn an_invariant_without_a_test_is_found() {
        let untested = |map: &str, code: &str| invariants_tested(&[file("ARCHITECTURE.md", map), file("a.rs", code)]).len();
        let map = "- I1 A replica\n| I2 | The data plane |\n| I12 | More |\n- In short\n";
        let tests =
            "#[test]\nfn i1_a() {}\n#[tokio::test(start_paused = true)]\n// why\nasync fn i2_b() {}\n#[test]\n#[ignore]\nfn i12_c() {}";
        assert_eq!(untested(map, tests), 0);
        assert_eq!(untested(map, "fn i1_a() {}\n#[test]\nfn i2_b() {}\n#[test]\nfn other() {}\nfn i12_c() {}"), 2);
        assert_eq!(untested("no list", tests), 1);
        assert_eq!(invariants_tested(&[]).len(), 1);
    }
}
