//! The variants beside a version's reference: folders with a card, `VERSION/variants/NAME/{model.onnx,card.toml}`.

use super::{Offers, publish_holder};
use crate::artifact::hash_folder;
use crate::error::WorkerError;
use crate::repository::{Found, MODEL_FILE, read_text};
use crate::verdict::How;
use policy::card::{Card, FILE, FOLDER};
use policy::{ArtifactRecord, Runs, VariantName, VariantRecord};
use std::path::Path;

/// Longest card read: one range of two numbers for each value of a large model is some hundred kilobytes.
const CARD_BYTES_MAX: u64 = 8 << 20;
/// Most bytes of a sample in a card: what is timed is this, 16 times in the largest batch.
const SAMPLE_ELEMENTS_MAX: i64 = 4 << 20;
/// Most inputs in it, and files of a variant: the version's record, which has room for 64 KiB, lists them.
const LISTED_MAX: usize = 64;
/// Most variants of a version: their records must fit the version's.
const VARIANTS_MAX: usize = 16;

impl Offers {
    /// The variants of `found` whose card says what they are worth and is right about the files. Of others the log says what is wrong.
    pub(super) async fn variants(&self, found: &Found, reference: &ArtifactRecord) -> Vec<VariantRecord> {
        let folder = found.folder.join(FOLDER);
        let mut names: Vec<VariantName> = std::fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| VariantName::new(entry.ok()?.file_name().to_str()?).ok())
            .collect();
        names.sort();
        if names.len() > VARIANTS_MAX {
            let (model, version, count) = (&found.model, found.version, names.len());
            tracing::error!(%model, %version, count, "more variants than a version may have; the first {VARIANTS_MAX} are offered");
            names.truncate(VARIANTS_MAX);
        }
        let mut variants = Vec::with_capacity(names.len());
        for name in names {
            match self.variant(found, reference, &folder.join(name.as_str()), &name).await {
                Ok(variant) => variants.push(variant),
                Err(error) => {
                    tracing::error!(model = %found.model, version = %found.version, variant = %name, %error, "variant not offered")
                }
            }
        }
        variants
    }

    async fn variant(
        &self,
        found: &Found,
        reference: &ArtifactRecord,
        folder: &Path,
        name: &VariantName,
    ) -> Result<VariantRecord, WorkerError> {
        let card = read_card(folder)?;
        let wrong = |what: String| WorkerError::Repository { path: folder.join(FILE), what };
        if name.as_str() == VariantName::REFERENCE {
            return Err(wrong(format!("{name} is what the model itself is called: give the variant another name")));
        }
        if card.name != *name {
            return Err(wrong(format!("it is the card of {}", card.name)));
        }
        let source = reference.files.iter().find(|file| file.path == found.model_file);
        if source.is_none_or(|source| source.sha256 != card.source) {
            return Err(wrong(format!("it was made from another file than {}: make it anew, or check it", found.model_file)));
        }
        let elements = card.sample.values().map(|shape| shape.iter().fold(1i64, |n, d| n.saturating_mul((*d).max(0))));
        if card.sample.len() > LISTED_MAX || elements.fold(0, i64::saturating_add) > SAMPLE_ELEMENTS_MAX {
            return Err(wrong(format!("its sample is of more than {LISTED_MAX} inputs or {SAMPLE_ELEMENTS_MAX} elements")));
        }
        let fidelity = card.fidelity.ok_or_else(|| wrong("it does not say how accurate the variant is: check it".to_owned()))?;
        if !(0.0..=1.0).contains(&fidelity.accuracy) {
            return Err(wrong(format!("an accuracy of {} cannot be: check the variant", fidelity.accuracy)));
        }
        if fidelity.accuracy < card.floor {
            return Err(wrong(format!("its accuracy {:.4} is below the {} that was asked of it", fidelity.accuracy, card.floor)));
        }
        let own = folder.join(MODEL_FILE).is_file();
        let (artifact, place, model_file) = if own {
            let hashing = folder.to_owned();
            let hashed = tokio::task::spawn_blocking(move || hash_folder(&hashing)).await;
            (hashed.map_err(|e| WorkerError::Signature(e.to_string()))??, folder, MODEL_FILE)
        } else {
            (reference.clone(), found.folder.as_path(), found.model_file.as_str())
        };
        if own && artifact.files.len() > LISTED_MAX {
            return Err(wrong(format!("{} files lie beside it, at most {LISTED_MAX} may", artifact.files.len())));
        }
        if artifact.files.iter().find(|file| file.path == model_file).is_none_or(|file| file.sha256 != card.model) {
            return Err(wrong(format!("its {model_file} is not the file that the card is about: check the variant")));
        }
        let runs = Runs {
            name,
            artifact: &artifact.digest,
            files: &artifact.files,
            model_file,
            hint: card.hint,
            bytes_resident: artifact.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add).saturating_mul(2),
        };
        let bytes_resident = match self.verdicts.of(runs.artifact, &place.join(model_file), How::of(&runs)?).await {
            Ok(facts) => facts.bytes_resident,
            // Its engine is not here: others validate it before they load it.
            Err(WorkerError::NotValidated(reason)) => {
                tracing::info!(model = %found.model, version = %found.version, variant = %name, reason, "variant offered without a look at it");
                runs.bytes_resident
            }
            Err(error) => return Err(error),
        };
        if own {
            self.artifacts.offer(&artifact, place);
            let key = publish_holder(&self.config, &self.publisher, &self.artifacts, &artifact.digest);
            self.publisher.written(&key).await;
        }
        Ok(VariantRecord {
            name: name.clone(),
            artifact: artifact.digest,
            files: artifact.files,
            model_file: model_file.to_owned(),
            hint: card.hint,
            bytes_resident,
            accuracy: fidelity.accuracy,
            metric: fidelity.metric,
            data: fidelity.data,
            needs: card.needs,
            sample: card.sample,
        })
    }
}

fn read_card(folder: &Path) -> Result<Card, WorkerError> {
    let path = folder.join(FILE);
    let wrong = |what: String| WorkerError::Repository { path: path.clone(), what };
    let text = read_text(&path, CARD_BYTES_MAX)?.ok_or_else(|| wrong("there is no card: check the variant to write one".to_owned()))?;
    toml::from_str(&text).map_err(|e| wrong(e.to_string().trim().to_owned()))
}
