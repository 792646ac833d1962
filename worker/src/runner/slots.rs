//! Where a runner puts outputs: slots of one shared file. A slot is used again when nobody refers to what is in it any more.
#![allow(unsafe_code, reason = "mapping memory that another process writes to")]

use crate::arena::Region;
use bytes::Bytes;
use memmap2::{Mmap, MmapOptions};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Length of the first slots.
const LEN_MIN: usize = 64 << 10;
/// Slots that are kept while nobody uses them.
const IDLE_MAX: usize = 4;

/// The worker's side of an engine's outputs.
pub(super) struct Slots {
    file: Arc<OwnedFd>,
    slots: Vec<Arc<Slot>>,
    /// Where slots of this length were that are gone.
    spare: Vec<u64>,
    /// Length of a slot.
    len: usize,
    end: u64,
}

/// A part of the file, mapped by itself so that it stays where it is while others come and go.
pub(super) struct Slot {
    file: Arc<OwnedFd>,
    map: Mmap,
    pub(super) offset: u64,
}

impl Slots {
    /// With the file, to be given to the runner.
    pub(super) fn new() -> std::io::Result<(Self, OwnedFd)> {
        let file = rustix::fs::memfd_create("sluice-outputs", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        // A runner that could cut it short could end this process by SIGBUS.
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK)?;
        let shared = file.try_clone()?;
        Ok((Self { file: Arc::new(file), slots: Vec::new(), spare: Vec::new(), len: LEN_MIN, end: 0 }, shared))
    }

    /// A slot that is free, of at least `needed` bytes. Slots become as long as the longest that was asked for.
    pub(super) fn take(&mut self, needed: usize) -> std::io::Result<Arc<Slot>> {
        if needed > self.len {
            self.len = needed.checked_next_power_of_two().ok_or(std::io::ErrorKind::OutOfMemory)?;
            self.slots.clear();
            self.spare.clear();
        }
        let mut idle = 0usize;
        self.slots.retain(|slot| {
            idle = idle.saturating_add(usize::from(is_free(slot)));
            let keep = idle <= IDLE_MAX || !is_free(slot);
            if !keep {
                self.spare.push(slot.offset);
            }
            keep
        });
        if let Some(slot) = self.slots.iter().find(|slot| is_free(slot)) {
            return Ok(slot.clone());
        }
        let offset = self.spare.pop().unwrap_or(self.end);
        let end = offset.checked_add(self.len as u64).ok_or(std::io::ErrorKind::OutOfMemory)?;
        if end > self.end {
            rustix::fs::ftruncate(&*self.file, end)?;
            self.end = end;
        }
        // SAFETY: the file has that length and cannot get shorter; the runner writes to a slot before it tells of it, and only to one
        // that was given to it.
        let map = unsafe { MmapOptions::new().offset(offset).len(self.len).map(&*self.file) }?;
        let slot = Arc::new(Slot { file: self.file.clone(), map, offset });
        self.slots.push(slot.clone());
        Ok(slot)
    }
}

fn is_free(slot: &Arc<Slot>) -> bool {
    Arc::strong_count(slot) == 1
}

impl Slot {
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// The bytes at `region` of the file; none when that is not in this slot.
    pub(super) fn bytes(self: &Arc<Self>, region: Region) -> Option<Bytes> {
        let start = region.offset.checked_sub(usize::try_from(self.offset).ok()?)?;
        self.map.get(start..start.checked_add(region.len)?)?;
        Some(Bytes::from_owner(Lent { slot: self.clone(), start, len: region.len }))
    }
}

impl Drop for Slot {
    /// Gives the memory back.
    fn drop(&mut self) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let _ = rustix::fs::fallocate(&*self.file, flags, self.offset, self.map.len() as u64);
    }
}

/// A part of a slot, which stays in use as long as it lives.
struct Lent {
    slot: Arc<Slot>,
    start: usize,
    len: usize,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.slot.map.get(self.start..self.start.saturating_add(self.len)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_used_again_only_when_its_bytes_are_gone() {
        let (mut slots, _file) = Slots::new().unwrap();
        let first = slots.take(10).unwrap();
        let offset = first.offset;
        let region = Region { offset: offset as usize, len: 10 };
        let lent = first.bytes(region).unwrap();
        assert!(first.bytes(Region { len: first.len() + 1, ..region }).is_none());
        drop(first);
        assert_ne!(slots.take(10).unwrap().offset, offset, "somebody reads it");
        drop(lent);
        assert_eq!(slots.take(10).unwrap().offset, offset);
    }

    #[test]
    fn after_a_peak_memory_is_given_back_and_places_are_used_again() {
        let (mut slots, file) = Slots::new().unwrap();
        for _ in 0..3 {
            let peak: Vec<_> = (0..64).map(|_| slots.take(10).unwrap()).collect();
            assert_eq!(slots.slots.len(), 64);
            drop(peak);
            drop(slots.take(10).unwrap());
            assert_eq!(slots.slots.len(), IDLE_MAX);
        }
        assert_eq!(rustix::fs::fstat(&file).unwrap().st_size, 64 * LEN_MIN as i64);
        assert_eq!(slots.take(LEN_MIN + 1).unwrap().len(), 2 * LEN_MIN);
        assert_eq!(slots.slots.len(), 1, "shorter ones are not needed any more");
    }
}
