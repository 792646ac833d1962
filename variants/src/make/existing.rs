//! Variants that someone else made, or that were made before: looked at as strictly as our own.

use super::{Candidate, Made, Origin, Work, folder};
use crate::VariantError;
use crate::onnx::Model;
use crate::runtime::Run;
use policy::card::Card;
use policy::{PrecisionHint, VariantName};
use std::path::{Path, PathBuf};

/// A variant that is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Existing {
    /// What it is, or will be, called.
    pub name: VariantName,
    /// Its file; none: the reference's, run otherwise.
    pub file: Option<PathBuf>,
    /// What the engine is told to compute in.
    pub hint: Option<PrecisionHint>,
    /// What an earlier card said of how it was made.
    pub card: Option<Card>,
}

impl Existing {
    /// The one in `folder`, which is called as the variant is.
    ///
    /// # Errors
    /// [`VariantError::Card`] for a folder that is called otherwise, or that has neither a file nor a card.
    pub fn in_folder(folder: &Path) -> Result<Self, VariantError> {
        let name = folder.file_name().and_then(|name| VariantName::new(name.to_str()?).ok());
        let shown = folder.display();
        let name = name.ok_or_else(|| VariantError::Card(format!("{shown}: a variant's folder is called precision@engine")))?;
        Self::check_name(&name)?;
        let file = Some(folder.join("model.onnx")).filter(|file| file.is_file());
        let card = folder::read_card(folder).ok();
        if file.is_none() && card.is_none() {
            return Err(VariantError::Card(format!("{shown}: neither a model.onnx nor a card.toml that can be read")));
        }
        Ok(Self { name, file, hint: card.as_ref().and_then(|card| card.hint), card })
    }
}

impl Existing {
    /// A variant cannot be called what the model itself is called.
    ///
    /// # Errors
    /// [`VariantError::Card`].
    pub fn check_name(name: &VariantName) -> Result<(), VariantError> {
        let taken = name.as_str() == VariantName::REFERENCE;
        if taken {
            Err(VariantError::Card(format!("{name} is what the model itself is called: give the variant another name")))
        } else {
            Ok(())
        }
    }
}

impl Work<'_> {
    /// Takes a copy of it, and judges that.
    pub(super) fn existing(&self, existing: &Existing, made: &mut Made) -> Result<Candidate, VariantError> {
        // Where its engine is not, another says whether a new file is a model at all; of what a card says of this one it knows nothing.
        let known = existing.card.is_some() || existing.file.is_none() || existing.hint.is_some();
        if let Some(missing) = self.runtime.missing(existing.name.engine()).filter(|_| known) {
            return Err(VariantError::NotApplicable(missing));
        }
        let to = self.staging.folder(existing.name.as_str())?;
        let mut file = None;
        let mut same = false;
        if let Some(from) = &existing.file {
            // A file decides itself how large it is in memory: looked at in a child before it is read here.
            let engine = existing.name.engine();
            let here = self.runtime.missing(engine).is_none();
            let own = Run { engine: engine.to_owned(), hint: existing.hint, ..Run::ort(from) };
            self.runtime.check(&if here { own } else { Run::ort(from) })?;
            let model = Model::read(from)?;
            same = existing.card.as_ref().is_some_and(|card| folder::digest_of(from).is_ok_and(|(digest, _)| digest == card.model));
            model.write(&to)?;
            file = Some(to.join("model.onnx"));
        }
        let origin = match &existing.card {
            // What an old card says of another file is not true of this one.
            Some(card) if same || existing.file.is_none() => Origin {
                made_by: card.made_by.clone(),
                passes: card.passes.clone(),
                calibration: card.calibration.clone(),
                needs: card.needs.clone(),
            },
            _ => Origin { made_by: "imported".to_owned(), passes: Vec::new(), calibration: None, needs: Vec::new() },
        };
        self.judged(existing.name.clone(), existing.hint, file, to, origin, made)
    }
}
