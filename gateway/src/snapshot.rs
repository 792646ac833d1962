//! The last routing table on disk, so that a gateway started while the registry is away serves what was known (I2).

use registry::Entry;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

/// The file: the records a table is built from, as they were in the registry.
#[derive(Serialize, Deserialize)]
struct File {
    schema: u32,
    /// Root of the cluster's keys: another cluster's snapshot is not taken.
    root: String,
    records: Vec<Record>,
}

#[derive(Serialize, Deserialize)]
struct Record {
    key: String,
    value: serde_json::Value,
    revision: i64,
    created: i64,
}

/// Reads the snapshot of the cluster whose keys start with `root`. A missing, torn or foreign file is no snapshot.
pub(crate) fn read(path: &Path, root: &str) -> Option<BTreeMap<String, Entry>> {
    let bytes = std::fs::read(path).ok()?;
    let file: File = match serde_json::from_slice(&bytes) {
        Ok(file) => file,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "snapshot cannot be read, going on without");
            return None;
        }
    };
    if file.schema != policy::SCHEMA || file.root != root {
        tracing::warn!(path = %path.display(), schema = file.schema, root = file.root, "snapshot of another schema or cluster, going on without");
        return None;
    }
    let entry = |r: Record| {
        let value = serde_json::to_vec(&r.value).ok()?;
        Some((r.key.clone(), Entry { key: r.key, value, revision: r.revision, created: r.created }))
    };
    Some(file.records.into_iter().filter_map(entry).collect())
}

/// Writes the snapshot: beside the old one, then in its place, so that a kill at any moment leaves one of the two.
///
/// # Errors
/// When the disk does not take it; the old snapshot stays.
pub(crate) fn write(path: &Path, root: &str, entries: &BTreeMap<String, Entry>) -> std::io::Result<()> {
    let record = |e: &Entry| {
        let value = serde_json::from_slice(&e.value).ok()?;
        Some(Record { key: e.key.clone(), value, revision: e.revision, created: e.created })
    };
    let file = File { schema: policy::SCHEMA, root: root.to_owned(), records: entries.values().filter_map(record).collect() };
    let bytes = serde_json::to_vec(&file)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let beside = path.with_extension("new");
    let mut new = std::fs::File::create(&beside)?;
    new.write_all(&bytes)?;
    new.sync_data()?;
    std::fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> BTreeMap<String, Entry> {
        let entry = Entry { key: "/r/a".into(), value: br#"{"schema":1}"#.to_vec(), revision: 3, created: 2 };
        [(entry.key.clone(), entry)].into()
    }

    #[test]
    fn i2_a_snapshot_torn_at_any_byte_leaves_the_old_one_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deeper/snapshot.json");
        write(&path, "/r/", &entries()).unwrap();
        assert_eq!(read(&path, "/r/"), Some(entries()));
        assert_eq!(read(&path, "/other/"), None);
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            // A kill while writing touches only the file beside it.
            std::fs::write(path.with_extension("new"), &whole[..cut]).unwrap();
            assert_eq!(read(&path, "/r/"), Some(entries()));
            let torn = folder.path().join("torn");
            std::fs::write(&torn, &whole[..cut]).unwrap();
            assert_eq!(read(&torn, "/r/"), None, "cut at {cut}");
        }
    }
}
