//! What a worker finds, beside what the registry already has of the same version: which of the two stands.

use crate::{Digest, Origin, VersionRecord};

/// Why a version is described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion<'a> {
    /// What was written before may have been lost.
    Again,
    /// A worker starts. `owns`: its directory is the whole truth.
    Start {
        /// No other worker has a directory.
        owns: bool,
    },
    /// A load call had the directory looked at again.
    Asked {
        /// The artifact that this worker described last under this version.
        before: Option<&'a Digest>,
    },
    /// A load call brought the files.
    Brought,
}

/// Who has the files of the version that the registry knows, as the worker that asks sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Held {
    /// Nobody.
    Nowhere,
    /// This worker, or others that fetched them.
    Cached,
    /// Another worker, in its model directory.
    Offered,
}

/// Does `offered` take the place of `known`, another description of the same version?
///
/// Between directories that differ the first stands while it is in one; a directory that was changed from just that is newer, and a
/// load call says so. What a load call brought stands until the next load call, over restarts too, while anyone has its files.
pub fn replaces(occasion: Occasion<'_>, known: &VersionRecord, offered: &VersionRecord, held: Held) -> bool {
    let free = known.artifact == offered.artifact || held != Held::Offered;
    match occasion {
        Occasion::Again => false,
        Occasion::Brought | Occasion::Start { owns: true } => true,
        Occasion::Start { owns: false } if !known.origin.is_directory() => held == Held::Nowhere,
        Occasion::Start { owns: false } => free,
        Occasion::Asked { before } => known.origin == Origin::Files || free || before == Some(&known.artifact),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ModelName, SCHEMA, Signature, Unknown, VariantName, Version, VersionState};

    fn version(artifact: char, origin: Origin) -> VersionRecord {
        VersionRecord {
            schema: SCHEMA,
            model: ModelName::new("m").unwrap(),
            version: Version::parse("1").unwrap(),
            state: VersionState::Valid,
            reference: VariantName::new("fp32@ort").unwrap(),
            artifact: Digest::new(artifact.to_string().repeat(64)).unwrap(),
            files: vec![],
            model_file: String::new(),
            config: None,
            signature: Signature::default(),
            bytes_resident: 0,
            image: None,
            split: false,
            padding: None,
            labels: vec![],
            origin,
            variants: Vec::new(),
            unknown: Unknown::new(),
        }
    }

    #[test]
    fn between_directories_that_differ_the_first_stands_until_it_is_changed_itself() {
        let [a, b, c] = ['a', 'b', 'c'].map(|artifact| version(artifact, Origin::Directory));
        let start = Occasion::Start { owns: false };
        assert!(!replaces(start, &a, &b, Held::Offered));
        assert!(replaces(start, &a, &b, Held::Cached) && replaces(start, &a, &b, Held::Nowhere), "in nobody's directory any more");
        assert!(replaces(start, &a, &a, Held::Offered), "the same files with other settings");
        fn asked(before: Option<&Digest>) -> Occasion<'_> {
            Occasion::Asked { before }
        }
        for origin in [Origin::Directory, Origin::Config] {
            let a = VersionRecord { origin, ..a.clone() };
            assert!(!replaces(asked(None), &a, &b, Held::Offered), "two directories");
            assert!(!replaces(asked(Some(&b.artifact)), &a, &b, Held::Offered), "unchanged here, changed there");
            assert!(!replaces(asked(Some(&c.artifact)), &a, &b, Held::Offered), "changed in both");
            assert!(replaces(asked(Some(&a.artifact)), &a, &b, Held::Offered), "changed here");
        }
    }

    #[test]
    fn what_a_load_call_brought_stands_until_the_next_one() {
        let (found, config, files) = (version('a', Origin::Directory), version('a', Origin::Config), version('b', Origin::Files));
        for held in [Held::Cached, Held::Offered] {
            assert!(!replaces(Occasion::Start { owns: false }, &config, &found, held));
            assert!(!replaces(Occasion::Start { owns: false }, &files, &found, held));
        }
        assert!(replaces(Occasion::Start { owns: false }, &files, &found, Held::Nowhere), "nobody can serve it any more");
        assert!(replaces(Occasion::Start { owns: true }, &config, &found, Held::Cached), "a directory that is the whole truth");
        assert!(replaces(Occasion::Asked { before: None }, &files, &found, Held::Offered));
        assert!(replaces(Occasion::Asked { before: None }, &config, &found, Held::Offered), "the same files");
        assert!(replaces(Occasion::Brought, &found, &files, Held::Offered));
        assert!(!replaces(Occasion::Again, &found, &files, Held::Nowhere));
    }
}
