//! The checks on this repository that clippy cannot make, as tests. Each rule is a function from text to problems, tested on made-up
//! input as well, so that a rule which stopped finding anything is noticed.

mod rules;

use std::path::Path;
use std::process::Command;

use rules::{Problems, SourceFile};

/// Every file that git tracks or would track.
fn files() -> Vec<SourceFile> {
    let root = crate::repository().unwrap();
    let output = Command::new("git").current_dir(root).args(["ls-files", "-co", "--exclude-standard", "-z"]).output().unwrap();
    assert!(output.status.success(), "git: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).unwrap();
    // A deleted file is listed until the deletion is committed.
    let names = names.split_terminator('\0').filter(|name| root.join(name).is_file());
    names.map(|name| read(root, name)).collect()
}

fn read(root: &Path, name: &str) -> SourceFile {
    let bytes = std::fs::read(root.join(name)).unwrap();
    SourceFile { name: name.to_owned(), bytes: bytes.len(), text: String::from_utf8(bytes).unwrap_or_default() }
}

fn check(rule: impl Fn(&[SourceFile]) -> Problems) {
    let problems = rule(&files());
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn imports_go_only_downward() {
    check(rules::import_direction);
}

#[test]
fn a_long_file_says_why() {
    check(rules::file_length);
}

#[test]
fn each_invariant_has_a_test() {
    check(rules::invariants_tested);
}

#[test]
fn no_large_file_is_tracked() {
    check(rules::file_size);
}

#[test]
fn nothing_depends_on_the_shared_folder() {
    check(rules::shared_folder);
}

#[test]
fn one_version_each_of_the_wire_crates() {
    check(rules::single_versions);
}
