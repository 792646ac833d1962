//! What a worker finds, beside what the registry already has of the same version: which of the two stands.

use crate::{Digest, VersionRecord};

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

/// Who has the files of the version that the registry knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Nobody.
    Nowhere,
    /// Only the worker that asks.
    Here,
    /// Another worker, at least.
    Elsewhere,
}

/// Does `offered` take the place of `known`, another description of the same version?
///
/// What a load call brought stands until the next load call, over restarts too. Between directories that differ the first stands while
/// anyone else holds its files; a directory that was changed from just that is newer, and a load call says so.
pub fn replaces(occasion: Occasion<'_>, known: &VersionRecord, offered: &VersionRecord, held: Held) -> bool {
    let free = known.artifact == offered.artifact || held != Held::Elsewhere;
    match occasion {
        Occasion::Again => false,
        Occasion::Brought | Occasion::Start { owns: true } => true,
        Occasion::Start { owns: false } if known.by_call => held == Held::Nowhere,
        Occasion::Start { owns: false } => free,
        Occasion::Asked { before } => known.by_call || free || before == Some(&known.artifact),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ModelName, SCHEMA, Signature, Unknown, VariantName, Version, VersionState};

    fn version(artifact: char, by_call: bool) -> VersionRecord {
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
            labels: vec![],
            by_call,
            unknown: Unknown::new(),
        }
    }

    #[test]
    fn between_directories_that_differ_the_first_stands_until_it_is_changed_itself() {
        let (a, b, c) = (version('a', false), version('b', false), version('c', false));
        let start = Occasion::Start { owns: false };
        assert!(!replaces(start, &a, &b, Held::Elsewhere));
        assert!(replaces(start, &a, &b, Held::Here) && replaces(start, &a, &b, Held::Nowhere));
        assert!(replaces(start, &a, &a, Held::Elsewhere), "the same files with other settings");
        let asked = |before| Occasion::Asked { before };
        assert!(!replaces(asked(None), &a, &b, Held::Elsewhere), "two directories");
        assert!(!replaces(asked(Some(&b.artifact)), &a, &b, Held::Elsewhere), "unchanged here, changed there");
        assert!(!replaces(asked(Some(&c.artifact)), &a, &b, Held::Elsewhere), "changed in both");
        assert!(replaces(asked(Some(&a.artifact)), &a, &b, Held::Elsewhere), "changed here");
    }

    #[test]
    fn what_a_load_call_brought_stands_until_the_next_one() {
        let (found, brought) = (version('a', false), version('a', true));
        let other = version('b', true);
        for held in [Held::Here, Held::Elsewhere] {
            assert!(!replaces(Occasion::Start { owns: false }, &brought, &found, held), "its config");
            assert!(!replaces(Occasion::Start { owns: false }, &other, &found, held), "its files");
        }
        assert!(replaces(Occasion::Start { owns: false }, &other, &found, Held::Nowhere), "nobody can serve it any more");
        assert!(replaces(Occasion::Start { owns: true }, &brought, &found, Held::Here), "a directory that is the whole truth");
        assert!(replaces(Occasion::Asked { before: None }, &other, &found, Held::Elsewhere));
        assert!(replaces(Occasion::Brought, &found, &other, Held::Elsewhere));
        assert!(!replaces(Occasion::Again, &found, &other, Held::Nowhere));
    }
}
