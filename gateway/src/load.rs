//! Load and unload calls of clients: the files are looked at anew, then the model is wanted or not, then the call waits until it is so.

use crate::shard::Shard;
use crate::table::Table;
use futures_util::future::join_all;
use policy::{Failure, ModelName, Version};
use proto::budget::Permit;
use proto::call::Offer;
use proto::chain::Chain;
use proto::inference::ModelRepositoryParameter;
use proto::inference::model_repository_parameter::ParameterChoice;
use registry::admin::Change;
use std::collections::HashMap;
use std::time::Duration;

/// Longest a load or unload call waits: Triton's clients have no timeout of their own here.
const CHANGE_MAX: Duration = Duration::from_secs(120);
/// How long this gateway's own table may lag behind the registry before a change is answered all the same.
const LAG_MAX: Duration = Duration::from_secs(5);
/// Parameter that takes the place of config.pbtxt.
const CONFIG: &str = "config";
/// In front of the names of files.
const FILE: &str = "file:";

/// What a load call says besides the model's name.
#[derive(Debug, Default)]
pub(crate) struct LoadParameters {
    pub(crate) config: Option<String>,
    pub(crate) files: Vec<(String, Chain)>,
    /// For what the files take.
    pub(crate) held: Option<Permit>,
}

impl LoadParameters {
    /// Reads `config` (text) and `file:<version>/<name>` (bytes).
    ///
    /// # Errors
    /// [`Failure::Parameter`] for any other name, and for a value of the wrong kind.
    pub(crate) fn read(parameters: HashMap<String, ModelRepositoryParameter>) -> Result<Self, Failure> {
        let mut read = Self::default();
        for (name, value) in parameters {
            let wrong = |what: &str| Failure::Parameter { name: name.chars().take(128).collect(), what: what.to_owned() };
            match (name.strip_prefix(FILE), value.parameter_choice) {
                (Some(path), Some(ParameterChoice::BytesParam(bytes))) => read.files.push((path.to_owned(), Chain::from(bytes))),
                (Some(_), _) => return Err(wrong("expected the bytes of a file")),
                (None, Some(ParameterChoice::StringParam(text))) if name == CONFIG => read.config = Some(text),
                (None, _) if name == CONFIG => return Err(wrong("expected a text, the JSON of a model configuration")),
                (None, _) => return Err(wrong("a load call knows `config` and `file:<version>/<file name>`")),
            }
        }
        Ok(read)
    }
}

/// A worker's answer to an offer, if it comes in time.
async fn in_time(answer: impl Future<Output = Result<Vec<Version>, Failure>>) -> Result<Vec<Version>, Failure> {
    let late = |_| Failure::Registry { reason: format!("a worker did not look at the model within {} s", CHANGE_MAX.as_secs()) };
    tokio::time::timeout(CHANGE_MAX, answer).await.map_err(late).flatten()
}

impl Shard {
    /// Loads `model`, anew when it is loaded: a model that was changed in a worker's directory, or files that came with the call. Once
    /// begun it goes on without the caller: between what a version is and that it is to be loaded so, nothing may get lost.
    ///
    /// # Errors
    /// [`Failure::LoadFailed`] with the reason; what was served before is served on then.
    pub(crate) async fn load_model(&self, model: ModelName, parameters: LoadParameters) -> Result<(), Failure> {
        let shard = self.clone();
        let work = tokio::spawn(async move { shard.load_to_the_end(model, parameters).await });
        work.await.unwrap_or_else(|error| Err(Failure::thread_ended(&error)))
    }

    async fn load_to_the_end(&self, model: ModelName, parameters: LoadParameters) -> Result<(), Failure> {
        self.knows_anything(&model)?;
        let LoadParameters { config, files, held: _held } = parameters;
        let offer = Offer { model: model.clone(), config, files };
        if offer.files.is_empty() {
            self.offer_to_all(offer).await?
        } else {
            self.offer_to_one(offer).await?
        }
        self.change(Change::Load(model), true).await
    }

    /// Unloads `model`. What is in flight is answered.
    ///
    /// # Errors
    /// [`Failure::UnknownModel`], before anything is written: a mistyped name must not stay behind.
    pub(crate) async fn unload_model(&self, model: ModelName) -> Result<(), Failure> {
        self.knows_anything(&model)?;
        if !self.core.table.load().models.contains_key(model.as_str()) {
            return Err(Failure::UnknownModel { model: model.to_string() });
        }
        self.change(Change::Unload(model), false).await
    }

    fn knows_anything(&self, model: &ModelName) -> Result<(), Failure> {
        match self.core.table.load().resolve(model.as_str(), "") {
            Err(failure @ Failure::NoTable { .. }) => Err(failure),
            _ => Ok(()),
        }
    }

    /// Any worker may have the model in its directory.
    async fn offer_to_all(&self, offer: Offer) -> Result<(), Failure> {
        let workers: Vec<_> = self.core.table.load().workers.keys().cloned().collect();
        let offer = &offer;
        let asked = workers.iter().filter_map(|worker| self.upstream(worker).map(|u| (worker, u)));
        let answers = join_all(asked.map(|(worker, upstream)| async move { (worker, in_time(upstream.offer(offer.clone())).await) })).await;
        let (mut found, mut first) = (false, None);
        for (worker, answer) in answers {
            match answer {
                Ok(versions) => found |= !versions.is_empty(),
                Err(failure) => {
                    tracing::warn!(%worker, model = %offer.model, %failure, "a worker cannot offer the model");
                    first.get_or_insert(failure);
                }
            }
        }
        match (found, first) {
            (true, _) => Ok(()),
            (false, Some(failure)) => Err(failure),
            // Who has the directory may be away; what was offered before can be had from whoever holds it.
            (false, None) if offer.config.is_none() && self.core.table.load().is_known_valid(offer.model.as_str()) => Ok(()),
            (false, None) => {
                let reason = "no worker offers it: put it in a worker's --models directory".to_owned();
                Err(Failure::LoadFailed { model: offer.model.to_string(), reason })
            }
        }
    }

    /// One worker keeps files that came with the call, and gives them to the others. Which one does not matter; another is asked
    /// only when one could not be reached.
    async fn offer_to_one(&self, offer: Offer) -> Result<(), Failure> {
        let workers: Vec<_> = self.core.table.load().workers.keys().cloned().collect();
        let mut last = Failure::NoReplica { model: offer.model.to_string(), retry_ms: 200 };
        for upstream in workers.iter().filter_map(|worker| self.upstream(worker)) {
            match in_time(upstream.offer(offer.clone())).await {
                Ok(_) => return Ok(()),
                Err(failure @ (Failure::ConnectionLost | Failure::BadReply { .. })) => last = failure,
                Err(failure) => return Err(failure),
            }
        }
        Err(last)
    }

    /// Writes a change and waits until it is so, here too: a client that asks next must not find the table of a moment ago.
    async fn change(&self, change: Change, wanted: bool) -> Result<(), Failure> {
        let (core, model) = (&self.core, change.model().clone());
        core.operator.change(change, CHANGE_MAX).await?;
        let (seen, mut changed) = (core.operator.seen(), core.changed.subscribe());
        let behind = |table: &Table| table.revision < seen || table.resolve(model.as_str(), "").is_ok() != wanted;
        let here = async {
            while behind(&core.table.load()) {
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(LAG_MAX, here).await.is_err() {
            tracing::warn!(%model, wanted, "the routing table does not follow the registry");
        }
        Ok(())
    }
}
