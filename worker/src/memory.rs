//! I8: bytes promised on a device never exceed what it has.

use crate::error::WorkerError;
use policy::DeviceRecord;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What is promised on each device of this worker: by replicas that serve, by loads under way, by replicas that finish.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<BTreeMap<String, u64>>>);

/// Bytes promised; given back on drop. Lives in the replica it is for, to the end of its last engine.
pub(crate) struct Reservation {
    ledger: Ledger,
    device: String,
    bytes: u64,
}

impl Ledger {
    /// Promises `needed` bytes on `device`.
    ///
    /// # Errors
    /// [`WorkerError::Memory`] with all the numbers, when they are not there.
    pub(crate) fn reserve(&self, device: &DeviceRecord, needed: u64) -> Result<Reservation, WorkerError> {
        let mut promised = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = promised.entry(device.name.clone()).or_default();
        let free = device.memory_bytes.saturating_sub(*sum);
        if needed > free {
            return Err(WorkerError::Memory { needed, device: device.name.clone(), free, total: device.memory_bytes });
        }
        *sum = sum.saturating_add(needed);
        Ok(Reservation { ledger: self.clone(), device: device.name.clone(), bytes: needed })
    }
}

impl Reservation {
    /// Gives back what is above `bytes`: a load has turned out to need no more.
    pub(crate) fn shrink_to(&mut self, bytes: u64) {
        let mut promised = self.ledger.0.lock().unwrap_or_else(PoisonError::into_inner);
        let more = self.bytes.saturating_sub(bytes);
        self.bytes = self.bytes.saturating_sub(more);
        if let Some(sum) = promised.get_mut(&self.device) {
            *sum = sum.saturating_sub(more);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut promised = self.ledger.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sum) = promised.get_mut(&self.device) {
            *sum = sum.saturating_sub(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn i8_no_order_of_loads_and_unloads_promises_more_than_there_is(steps in prop::collection::vec((0..3, 0u64..60), 1..60)) {
            let device = DeviceRecord { name: "cpu".into(), class: "c".into(), memory_bytes: 100 };
            let (ledger, mut held) = (Ledger::default(), Vec::new());
            for (step, bytes) in steps {
                let before: u64 = held.iter().map(|r: &Reservation| r.bytes).sum();
                match (step, held.first_mut()) {
                    (0, _) => {
                        let reserved = ledger.reserve(&device, bytes);
                        prop_assert_eq!(reserved.is_ok(), before + bytes <= 100);
                        held.extend(reserved);
                    }
                    (1, Some(reserved)) => {
                        let had = reserved.bytes;
                        reserved.shrink_to(bytes);
                        prop_assert_eq!(reserved.bytes, had.min(bytes));
                    }
                    (_, None) => {}
                    (_, Some(_)) => drop(held.swap_remove(0)),
                }
                let after: u64 = held.iter().map(|r| r.bytes).sum();
                prop_assert!(after <= 100);
                prop_assert_eq!(ledger.0.lock().unwrap().values().sum::<u64>(), after);
            }
        }
    }
}
