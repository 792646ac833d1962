//! Where each kind of record lies.

/// The key space of one cluster, `/sluice/v1/{cluster}/...`.
///
/// Takes and gives words that were checked where they entered (`policy`): none is empty or contains a `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    root: String,
}

/// What a key stands for; the reverse of the methods of [`Keys`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key<'a> {
    /// `workers/{id}`, under the worker's lease.
    Worker {
        /// The worker.
        id: &'a str,
    },
    /// `replicas/{worker}/{variant}`, under the worker's lease.
    Replica {
        /// The worker that runs it.
        worker: &'a str,
        /// The variant's id.
        variant: &'a str,
    },
    /// `models/{model}`.
    Model {
        /// The model.
        model: &'a str,
    },
    /// `versions/{model}/{version}`.
    Version {
        /// The model.
        model: &'a str,
        /// The version, positive.
        version: u64,
    },
    /// `artifacts/{sha256}`.
    Artifact {
        /// The artifact.
        sha256: &'a str,
    },
    /// `artifacts/{sha256}/{worker}`, under the holder's lease.
    Holder {
        /// The artifact.
        sha256: &'a str,
        /// Who has it.
        worker: &'a str,
    },
    /// `profiles/{artifact}/{engine}-{hint}/{class}`.
    Profile {
        /// The artifact's sha256.
        artifact: &'a str,
        /// The engine.
        engine: &'a str,
        /// The precision hint; has no `-`.
        hint: &'a str,
        /// The device class.
        class: &'a str,
    },
    /// `placements/{worker}/{variant}`.
    Placement {
        /// The worker that should run it.
        worker: &'a str,
        /// The variant's id.
        variant: &'a str,
    },
    /// `plan/{model}`: why a model is not placed as wanted.
    Plan {
        /// The model.
        model: &'a str,
    },
    /// `demand/{gateway}`, under the gateway's lease: what is asked of it.
    Demand {
        /// The gateway.
        gateway: &'a str,
    },
    /// `rollouts/{model}`: where its rollout stands.
    Rollout {
        /// The model.
        model: &'a str,
    },
    /// `counts/{gateway}`, under the gateway's lease: what it counted of rollouts.
    Counts {
        /// The gateway.
        gateway: &'a str,
    },
    /// `leader`, under the leading controller's lease.
    Leader,
}

impl Keys {
    /// The key space of `cluster`.
    pub fn new(cluster: &str) -> Self {
        Self { root: format!("/sluice/v1/{cluster}/") }
    }

    /// What every key begins with.
    pub fn root(&self) -> &str {
        &self.root
    }

    fn at(&self, path: std::fmt::Arguments<'_>) -> String {
        format!("{}{path}", self.root)
    }

    /// A worker's own record.
    pub fn worker(&self, id: &str) -> String {
        self.at(format_args!("workers/{id}"))
    }

    /// The prefix of all workers.
    pub fn workers(&self) -> String {
        self.at(format_args!("workers/"))
    }

    /// A replica as its worker reports it.
    pub fn replica(&self, worker: &str, variant: &str) -> String {
        self.at(format_args!("replicas/{worker}/{variant}"))
    }

    /// The prefix of all replicas.
    pub fn replicas(&self) -> String {
        self.at(format_args!("replicas/"))
    }

    /// The prefix of one worker's replicas.
    pub fn replicas_of(&self, worker: &str) -> String {
        self.at(format_args!("replicas/{worker}/"))
    }

    /// What the operator wants of a model.
    pub fn model(&self, model: &str) -> String {
        self.at(format_args!("models/{model}"))
    }

    /// The prefix of all models.
    pub fn models(&self) -> String {
        self.at(format_args!("models/"))
    }

    /// What is known of a version.
    pub fn version(&self, model: &str, version: u64) -> String {
        self.at(format_args!("versions/{model}/{version}"))
    }

    /// The prefix of all versions of all models.
    pub fn versions(&self) -> String {
        self.at(format_args!("versions/"))
    }

    /// The prefix of one model's versions.
    pub fn versions_of(&self, model: &str) -> String {
        self.at(format_args!("versions/{model}/"))
    }

    /// An artifact.
    pub fn artifact(&self, sha256: &str) -> String {
        self.at(format_args!("artifacts/{sha256}"))
    }

    /// That a worker or gateway has an artifact: each holder its own leased key.
    pub fn holder(&self, sha256: &str, worker: &str) -> String {
        self.at(format_args!("artifacts/{sha256}/{worker}"))
    }

    /// The prefix of all artifacts and their holders.
    pub fn artifacts(&self) -> String {
        self.at(format_args!("artifacts/"))
    }

    /// The prefix of one artifact's holders.
    pub fn holders_of(&self, sha256: &str) -> String {
        self.at(format_args!("artifacts/{sha256}/"))
    }

    /// What was measured for an artifact in an engine on a device class.
    pub fn profile(&self, artifact: &str, engine: &str, hint: &str, class: &str) -> String {
        self.at(format_args!("profiles/{artifact}/{engine}-{hint}/{class}"))
    }

    /// The prefix of all profiles.
    pub fn profiles(&self) -> String {
        self.at(format_args!("profiles/"))
    }

    /// The prefix of one artifact's profiles.
    pub fn profiles_of(&self, artifact: &str) -> String {
        self.at(format_args!("profiles/{artifact}/"))
    }

    /// A replica as the controller wants it.
    pub fn placement(&self, worker: &str, variant: &str) -> String {
        self.at(format_args!("placements/{worker}/{variant}"))
    }

    /// The prefix of all placements.
    pub fn placements(&self) -> String {
        self.at(format_args!("placements/"))
    }

    /// The prefix of what one worker should run.
    pub fn placements_of(&self, worker: &str) -> String {
        self.at(format_args!("placements/{worker}/"))
    }

    /// What the leader decided about a model.
    pub fn plan(&self, model: &str) -> String {
        self.at(format_args!("plan/{model}"))
    }

    /// The prefix of what the leader decided.
    pub fn plans(&self) -> String {
        self.at(format_args!("plan/"))
    }

    /// What is asked of a gateway.
    pub fn demand(&self, gateway: &str) -> String {
        self.at(format_args!("demand/{gateway}"))
    }

    /// Where a model's rollout stands.
    pub fn rollout(&self, model: &str) -> String {
        self.at(format_args!("rollouts/{model}"))
    }

    /// The prefix of all rollouts.
    pub fn rollouts(&self) -> String {
        self.at(format_args!("rollouts/"))
    }

    /// What a gateway counted of rollouts.
    pub fn counts(&self, gateway: &str) -> String {
        self.at(format_args!("counts/{gateway}"))
    }

    /// The election key; its `created` revision is what transactions of the leader compare.
    pub fn leader(&self) -> String {
        self.at(format_args!("leader"))
    }

    /// What `key` stands for; `None` if it is no key of this cluster, or of a later kind.
    pub fn parse<'a>(&self, key: &'a str) -> Option<Key<'a>> {
        let mut words = key.strip_prefix(self.root.as_str())?.split('/');
        let kind = words.next()?;
        let words = [words.next(), words.next(), words.next(), words.next()];
        if words.contains(&Some("")) {
            return None;
        }
        Some(match (kind, words) {
            ("workers", [Some(id), None, ..]) => Key::Worker { id },
            ("replicas", [Some(worker), Some(variant), None, _]) => Key::Replica { worker, variant },
            ("models", [Some(model), None, ..]) => Key::Model { model },
            ("versions", [Some(model), Some(version), None, _]) => Key::Version { model, version: number(version)? },
            ("artifacts", [Some(sha256), None, ..]) => Key::Artifact { sha256 },
            ("artifacts", [Some(sha256), Some(worker), None, _]) => Key::Holder { sha256, worker },
            ("profiles", [Some(artifact), Some(how), Some(class), None]) => {
                let (engine, hint) = how.rsplit_once('-').filter(|(engine, hint)| !engine.is_empty() && !hint.is_empty())?;
                Key::Profile { artifact, engine, hint, class }
            }
            ("placements", [Some(worker), Some(variant), None, _]) => Key::Placement { worker, variant },
            ("plan", [Some(model), None, ..]) => Key::Plan { model },
            ("demand", [Some(gateway), None, ..]) => Key::Demand { gateway },
            ("rollouts", [Some(model), None, ..]) => Key::Rollout { model },
            ("counts", [Some(gateway), None, ..]) => Key::Counts { gateway },
            ("leader", [None, ..]) => Key::Leader,
            _ => return None,
        })
    }
}

/// A version as it is written, so that one version has one key: digits without leading zero or sign.
fn number(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_reads_back_as_what_it_was_made_of() {
        let keys = Keys::new("blue");
        let check = |key: String, expected: Key<'_>| {
            assert!(key.starts_with("/sluice/v1/blue/"), "{key}");
            assert_eq!(keys.parse(&key), Some(expected), "{key}");
        };
        let (worker, variant, model) = ("w-1", "resnet:3:int8@ort", "resnet");
        check(keys.worker(worker), Key::Worker { id: worker });
        check(keys.replica(worker, variant), Key::Replica { worker, variant });
        check(keys.model(model), Key::Model { model });
        check(keys.version(model, 3), Key::Version { model, version: 3 });
        check(keys.artifact("ab12"), Key::Artifact { sha256: "ab12" });
        check(keys.holder("ab12", worker), Key::Holder { sha256: "ab12", worker });
        let profile = Key::Profile { artifact: "ab12", engine: "my-engine", hint: "int8", class: "avx512-16c" };
        check(keys.profile("ab12", "my-engine", "int8", "avx512-16c"), profile);
        check(keys.placement(worker, variant), Key::Placement { worker, variant });
        check(keys.plan(model), Key::Plan { model });
        check(keys.demand("gw-1"), Key::Demand { gateway: "gw-1" });
        check(keys.rollout(model), Key::Rollout { model });
        check(keys.counts("gw-1"), Key::Counts { gateway: "gw-1" });
        check(keys.leader(), Key::Leader);
    }

    #[test]
    fn keys_lie_under_their_prefixes() {
        let keys = Keys::new("blue");
        for (key, prefixes) in [
            (keys.worker("w"), vec![keys.workers()]),
            (keys.replica("w", "v"), vec![keys.replicas(), keys.replicas_of("w")]),
            (keys.model("m"), vec![keys.models()]),
            (keys.version("m", 1), vec![keys.versions(), keys.versions_of("m")]),
            (keys.holder("a", "w"), vec![keys.artifacts(), keys.holders_of("a")]),
            (keys.profile("a", "e", "h", "c"), vec![keys.profiles(), keys.profiles_of("a")]),
            (keys.rollout("m"), vec![keys.rollouts()]),
            (keys.placement("w", "v"), vec![keys.placements(), keys.placements_of("w")]),
        ] {
            assert!(prefixes.iter().all(|prefix| key.starts_with(prefix.as_str())), "{key}");
        }
        assert!(!keys.placement("w2", "v").starts_with(&keys.placements_of("w")));
    }

    #[test]
    fn what_is_no_key_of_ours_is_none() {
        let keys = Keys::new("blue");
        for key in [
            "",
            "/sluice/v1/blue/",
            "/sluice/v1/blueish/leader",
            "/sluice/v1/green/leader",
            "/sluice/v1/blue/leader/x",
            "/sluice/v1/blue/workers",
            "/sluice/v1/blue/workers/",
            "/sluice/v1/blue/workers/a/b",
            "/sluice/v1/blue/replicas/a",
            "/sluice/v1/blue/replicas//v",
            "/sluice/v1/blue/replicas/a/b/c",
            "/sluice/v1/blue/versions/m/0",
            "/sluice/v1/blue/versions/m/01",
            "/sluice/v1/blue/versions/m/+1",
            "/sluice/v1/blue/versions/m/18446744073709551616",
            "/sluice/v1/blue/profiles/a/ort/c",
            "/sluice/v1/blue/profiles/a/-fp32/c",
            "/sluice/v1/blue/profiles/a/ort-fp32/c/d",
            "/sluice/v1/blue/weather/x",
        ] {
            assert_eq!(keys.parse(key), None, "{key}");
        }
    }
}
