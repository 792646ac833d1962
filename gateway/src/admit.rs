//! What each tenant holds of this gateway: taken when a request has come, given back when it is answered or given up.

use crate::shard::Core;
use policy::Failure;
use policy::admit::{Admission, Admitted};
use std::sync::{Mutex, PoisonError};

/// A request's place among its tenant's. Taken back on drop, so a cancelled request is counted too.
pub(crate) struct Place<'c> {
    admission: &'c Mutex<Admission>,
    admitted: Option<Admitted>,
}

impl Core {
    /// A place for a request of `tenant` that holds `bytes`.
    ///
    /// # Errors
    /// [`Failure::Quota`] when the tenant has used up its own.
    pub(crate) fn admit(&self, tenant: &str, bytes: u64) -> Result<Place<'_>, Failure> {
        let admitted = self.admission.lock().unwrap_or_else(PoisonError::into_inner).enter(self.now(), tenant, bytes)?;
        Ok(Place { admission: &self.admission, admitted: Some(admitted) })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(admitted) = self.admitted.take() {
            self.admission.lock().unwrap_or_else(PoisonError::into_inner).leave(admitted);
        }
    }
}
