//! One at a time for each model.

use policy::ModelName;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use tokio::sync::{Mutex, MutexGuard};

/// Locks for all names there may ever be: a fixed number, so that two models share one by chance.
pub(crate) struct Turns([Mutex<()>; 64]);

impl Default for Turns {
    fn default() -> Self {
        Self([const { Mutex::const_new(()) }; 64])
    }
}

impl Turns {
    /// Waits until nobody else looks at `model`.
    pub(super) async fn of(&self, model: &ModelName) -> MutexGuard<'_, ()> {
        let Self([first, ..]) = self;
        let mut hasher = DefaultHasher::new();
        model.hash(&mut hasher);
        let slot = usize::try_from(hasher.finish() % self.0.len() as u64).unwrap_or(0);
        self.0.get(slot).unwrap_or(first).lock().await
    }
}
