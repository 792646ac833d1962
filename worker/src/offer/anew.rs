//! Looking at a model anew, because a load call asked: in the model directory, or in files that came with the call.

use super::write::Written;
use super::{Described, Offers};
use crate::artifact::is_part;
use crate::error::WorkerError;
use crate::repository::{Found, Wanted, scan_model, wanted_versions};
use policy::offer::Occasion;
use policy::{Failure, ModelName, Origin, Version, VersionState};
use proto::call::Offer;
use proto::chain::Chain;
use proto::inference::ModelConfig;
use proto::model_config;
use std::path::{Component, Path, PathBuf};

impl Offers {
    /// Looks at the model that `offer` names and writes what it is now; gives the versions that can be served, none when this
    /// worker has no such model. What could be served before stays when it cannot be served any more.
    ///
    /// # Errors
    /// [`Failure::LoadFailed`] with the reason; what this host or the registry could not do as what it is.
    pub(crate) async fn anew(&self, offer: Offer) -> Result<Vec<Version>, Failure> {
        let _turn = self.turns.of(&offer.model).await;
        let model = offer.model.to_string();
        self.look(offer).await.map_err(|error| match error {
            WorkerError::Registry(error) => Failure::Registry { reason: error.to_string() },
            error => Failure::LoadFailed { model, reason: error.to_string() },
        })
    }

    async fn look(&self, offer: Offer) -> Result<Vec<Version>, WorkerError> {
        let config = offer.config.as_deref().map(model_config::parse_json).transpose();
        let config = config.map_err(|e| WorkerError::Invalid(format!("the load call's config: {e}")))?;
        let from_files = !offer.files.is_empty();
        let origin = match (from_files, &config) {
            (true, _) => Origin::Files,
            (false, Some(_)) => Origin::Config,
            (false, None) => Origin::Directory,
        };
        let mut brought = Brought::default();
        let mut found = if from_files {
            let config = config
                .ok_or_else(|| WorkerError::Invalid("files given with a load call need a config parameter beside them".to_owned()))?;
            self.unpack(&offer.model, offer.files, config, &mut brought).await?
        } else {
            let folder = self.config.models.as_ref().map(|dir| dir.join(offer.model.as_str()));
            let Some(folder) = folder.filter(|folder| folder.is_dir()) else {
                self.forget_brought(&offer.model);
                return Ok(Vec::new());
            };
            scan_model(&folder, offer.model.to_string(), config)?
        };
        found.iter_mut().for_each(|found| found.origin = origin);
        let (mut records, mut reason) = (Vec::new(), None);
        for found in &found {
            let record = self.describe(found).await?;
            match &record.state {
                VersionState::Invalid(why) => {
                    reason = Some(format!("version {}: {why}", found.version));
                    if !from_files {
                        self.write(&record, Occasion::Again).await?;
                    }
                }
                VersionState::Valid => records.push(record),
            }
        }
        if let (true, Some(reason)) = (records.is_empty(), reason) {
            return Err(WorkerError::Invalid(reason));
        }
        brought.keep();
        let before = self.described(&offer.model);
        let (mut valid, mut refused) = (Vec::new(), None);
        for record in &records {
            let stood = before.iter().flat_map(|b| b.records.iter().filter(|r| b.stand.contains(&r.version)));
            let before = stood.into_iter().find(|b| b.version == record.version).map(|b| &b.artifact);
            let occasion = if from_files { Occasion::Brought } else { Occasion::Asked { before } };
            match self.write(record, occasion).await? {
                Written::Refused => refused = Some(record.version),
                Written::Stands | Written::Replaced => valid.push(record.version),
            }
        }
        if let (true, Some(version)) = (valid.is_empty(), refused) {
            return Err(WorkerError::Invalid(format!(
                "another worker offers other files under version {version}: put the same into every directory, or give these a new version"
            )));
        }
        let wanted = match wanted_versions(&found) {
            // With files, exactly these versions are served; a directory may gain some later.
            wanted if from_files => Wanted { versions: wanted.of(&valid), latest: None },
            wanted => wanted,
        };
        // The load call itself asks for the reload.
        let model = Described { found, records, stand: valid.iter().copied().collect(), wanted };
        self.want(&model, false, Occasion::Brought).await?;
        if !from_files {
            self.forget_versions(&offer.model, &model.found).await?;
        }
        self.describe_as(offer.model, model);
        Ok(valid)
    }

    /// Puts files into the artifact cache, one artifact per version. `brought` gets those that were not there before.
    async fn unpack(
        &self,
        model: &ModelName,
        files: Vec<(String, Chain)>,
        config: ModelConfig,
        brought: &mut Brought,
    ) -> Result<Vec<Found>, WorkerError> {
        // On the cache's disk, so that taking it in is a rename; its random name keeps two calls apart.
        if files.len() > FILES_MAX {
            return Err(WorkerError::Invalid(format!("{} files, the limit of a load call is {FILES_MAX}", files.len())));
        }
        let uploads = self.config.data_dir.join("uploads");
        let made = std::fs::create_dir_all(&uploads).and_then(|()| tempfile::tempdir_in(&uploads));
        let temporary = made.map_err(WorkerError::file(&uploads))?;
        let folder = temporary.path().join(model.as_str());
        for (path, content) in files {
            let place = folder.join(inside(&path)?);
            let written = write_file(place, content).await;
            written.map_err(|error| WorkerError::Invalid(format!("file {path:?} cannot be kept: {error}")))?;
        }
        let mut found =
            scan_model(&folder, model.to_string(), Some(config)).map_err(|e| WorkerError::Invalid(without(&e.to_string(), &folder)))?;
        for found in &mut found {
            let (place, is_new) = self.artifacts.take_in(found.folder.clone()).await?;
            brought.0.extend(is_new.then(|| place.clone()));
            found.folder = place;
        }
        Ok(found)
    }
}

/// Folders that a load call added to the artifact cache. They go again unless something of them is to be served.
#[derive(Default)]
struct Brought(Vec<PathBuf>);

impl Brought {
    fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Brought {
    fn drop(&mut self) {
        self.0.iter().for_each(|folder| drop(std::fs::remove_dir_all(folder)));
    }
}

async fn write_file(place: PathBuf, content: Chain) -> std::io::Result<()> {
    if let Some(parent) = place.parent() {
        tokio::fs::create_dir_all(parent).await?;
    }
    let mut file = tokio::fs::File::create(&place).await?;
    for slice in content.slices() {
        tokio::io::AsyncWriteExt::write_all(&mut file, slice).await?;
    }
    tokio::io::AsyncWriteExt::flush(&mut file).await
}

/// Most files of a load call: each is named in its version's record.
const FILES_MAX: usize = 64;
/// Longest path of one.
const PATH_BYTES_MAX: usize = 255;

/// `<version>/<path>` with nothing in it that leads elsewhere.
fn inside(path: &str) -> Result<&Path, WorkerError> {
    let parts = Path::new(path).components().map(|part| matches!(part, Component::Normal(_)));
    let (version, rest) = path.split_once('/').unwrap_or_default();
    let plain = path.len() <= PATH_BYTES_MAX && parts.clone().all(|plain| plain) && is_part(rest);
    if !plain || Version::parse(version).is_err() || rest.is_empty() {
        let shown: String = path.chars().take(128).collect();
        return Err(WorkerError::Invalid(format!("file {shown:?}: expected <version>/<file name>, such as 1/model.onnx")));
    }
    Ok(Path::new(path))
}

/// A temporary folder means nothing to a client.
fn without(text: &str, folder: &Path) -> String {
    text.replace(&format!("{}/", folder.display()), "").replace(&folder.display().to_string(), "its files")
}
