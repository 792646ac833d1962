//! The memory in which an instance puts its batches together.
//!
//! It lives in a memfd, so that a runner process can map the same bytes. Regions are offsets, since growing may move the
//! mapping.
#![allow(unsafe_code, reason = "mapping memory")]

use memmap2::{MmapMut, MmapOptions, RemapOptions};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Every region starts at a multiple of this: a cache line, and enough for any vector load.
pub const ALIGN: usize = 64;

/// Sizes grow from here, by doubling.
const CAPACITY_MIN: usize = 64 * 1024;

/// Why memory could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// More than an address can name.
    #[error("a batch is larger than any memory")]
    TooLarge,
    /// The system refuses.
    #[error("memory for batches: {0}")]
    System(#[from] std::io::Error),
}

/// Memory of one instance, used for one batch after another. Grows as needed and keeps what it has.
pub struct Arena {
    fd: OwnedFd,
    map: MmapMut,
}

/// Where a tensor lies in an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Bytes from the start of the arena, a multiple of [`ALIGN`].
    pub offset: usize,
    /// Its length in bytes.
    pub len: usize,
}

impl Arena {
    /// An arena with room for `capacity` bytes that grows as it must: what enters the queue bounds it. Takes next to no
    /// memory until it is written to.
    ///
    /// # Errors
    /// The system refuses a memfd or a mapping.
    pub fn new(capacity: usize) -> Result<Self, ArenaError> {
        let fd = rustix::fs::memfd_create("sluice-batch", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map_err(std::io::Error::from)?;
        let len = capacity.max(CAPACITY_MIN);
        rustix::fs::ftruncate(&fd, len as u64).map_err(std::io::Error::from)?;
        // Whoever else maps it can then not cut it short, which would end in SIGBUS here.
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK).map_err(std::io::Error::from)?;
        // SAFETY: the file never gets shorter than that, and nobody else writes to it but a runner that is told to.
        let map = unsafe { MmapOptions::new().len(len).map_mut(&fd) }?;
        Ok(Self { fd, map })
    }

    /// Bytes it holds without growing.
    pub fn capacity(&self) -> usize {
        self.map.len()
    }

    /// Starts a batch. The last one's regions are void.
    pub fn assemble(&mut self) -> Assembly<'_> {
        Assembly { arena: self, used: 0 }
    }

    /// Gives back to the system the memory behind the first `keep` bytes, whose contents are lost: for after a peak.
    ///
    /// # Errors
    /// The system refuses.
    pub fn trim(&mut self, keep: usize) -> Result<(), ArenaError> {
        let from = keep.next_multiple_of(rustix::param::page_size());
        if let Some(len) = self.map.len().checked_sub(from).filter(|n| *n > 0) {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&self.fd, flags, from as u64, len as u64).map_err(std::io::Error::from)?;
        }
        Ok(())
    }

    fn grow(&mut self, wanted: usize) -> Result<(), ArenaError> {
        let have = self.map.len();
        if wanted <= have {
            return Ok(());
        }
        let len = wanted.max(have.saturating_mul(2));
        rustix::fs::ftruncate(&self.fd, len as u64).map_err(std::io::Error::from)?;
        // SAFETY: the file now has `len` bytes and cannot shrink; `&mut self` says that nothing refers to the mapping.
        unsafe { self.map.remap(len, RemapOptions::new().may_move(true)) }?;
        Ok(())
    }
}

impl AsFd for Arena {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").field("capacity", &self.capacity()).finish_non_exhaustive()
    }
}

/// The tensors of one batch, one behind the other.
#[derive(Debug)]
pub struct Assembly<'a> {
    arena: &'a mut Arena,
    used: usize,
}

impl Assembly<'_> {
    /// Room for `len` bytes, whose contents are whatever was there. Overlaps no other region of this batch.
    ///
    /// # Errors
    /// The system refuses.
    pub fn reserve(&mut self, len: usize) -> Result<Region, ArenaError> {
        let offset = self.used.checked_next_multiple_of(ALIGN);
        let end = offset.and_then(|o| o.checked_add(len));
        let (Some(offset), Some(end)) = (offset, end) else { return Err(ArenaError::TooLarge) };
        self.arena.grow(end)?;
        self.used = end;
        Ok(Region { offset, len })
    }

    /// A region with `chunks` one behind the other: the rows of a tensor, as they came.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    pub fn gather<'c>(&mut self, chunks: impl Iterator<Item = &'c [u8]> + Clone) -> Result<Region, ArenaError> {
        let len = chunks.clone().fold(0usize, |n, c| n.saturating_add(c.len()));
        let region = self.reserve(len)?;
        let mut rest = self.bytes_mut(region);
        for chunk in chunks {
            if let Some(room) = rest.split_off_mut(..chunk.len()) {
                room.copy_from_slice(chunk);
            }
        }
        Ok(region)
    }

    /// The bytes of a region of this batch, to write to.
    pub fn bytes_mut(&mut self, region: Region) -> &mut [u8] {
        self.arena.map.get_mut(region.offset..region.offset.saturating_add(region.len)).unwrap_or_default()
    }

    /// The bytes of a region of this batch.
    pub fn bytes(&self, region: Region) -> &[u8] {
        self.arena.map.get(region.offset..region.offset.saturating_add(region.len)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 8 << 20;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn regions_are_aligned_do_not_overlap_and_keep_their_contents(lens in prop::collection::vec(0usize..300_000, 1..12)) {
            let mut arena = Arena::new(0).unwrap();
            for round in 0..2u8 {
                let mut batch = arena.assemble();
                let mut regions = Vec::new();
                for (i, len) in lens.iter().enumerate() {
                    let region = batch.reserve(*len).unwrap();
                    batch.bytes_mut(region).fill(i as u8 + round);
                    prop_assert_eq!(batch.bytes(region).len(), *len);
                    prop_assert_eq!(batch.bytes(region).as_ptr().addr() % ALIGN, 0);
                    regions.push(region);
                }
                // Each was written before the later ones made the arena grow.
                for (i, region) in regions.iter().enumerate() {
                    prop_assert!(batch.bytes(*region).iter().all(|b| *b == i as u8 + round));
                }
                prop_assert!(regions.windows(2).all(|w| w[0].offset + w[0].len <= w[1].offset));
            }
        }
    }

    #[test]
    fn rows_are_gathered_in_order() {
        let mut arena = Arena::new(0).unwrap();
        let mut batch = arena.assemble();
        let rows: [&[u8]; 3] = [b"one", b"", b"two"];
        let region = batch.gather(rows.into_iter()).unwrap();
        assert_eq!(batch.bytes(region), b"onetwo");
    }

    #[test]
    fn what_no_memory_holds_is_refused_and_the_arena_stays_usable() {
        let mut arena = Arena::new(0).unwrap();
        assert!(arena.assemble().reserve(usize::MAX).is_err());
        let mut batch = arena.assemble();
        let region = batch.gather([b"abc".as_slice()].into_iter()).unwrap();
        assert_eq!(batch.bytes(region), b"abc");
    }

    #[test]
    fn another_mapping_of_the_descriptor_sees_the_batch() {
        let mut arena = Arena::new(0).unwrap();
        let mut batch = arena.assemble();
        let region = batch.gather([b"shared".as_slice()].into_iter()).unwrap();
        // SAFETY: the arena outlives the mapping and is not written to meanwhile.
        let other = unsafe { MmapOptions::new().map(&arena.as_fd().try_clone_to_owned().unwrap()) }.unwrap();
        assert_eq!(&other[region.offset..region.offset + region.len], b"shared");
        assert!(rustix::fs::ftruncate(&arena, 0).is_err(), "sealed against shrinking");
    }

    #[test]
    fn trimming_gives_memory_back_and_keeps_the_front() {
        let mut arena = Arena::new(0).unwrap();
        let mut batch = arena.assemble();
        let region = batch.reserve(LIMIT).unwrap();
        batch.bytes_mut(region).fill(7);
        let blocks = |arena: &Arena| rustix::fs::fstat(arena).unwrap().st_blocks * 512;
        assert!(blocks(&arena) >= LIMIT as i64);
        arena.trim(4096).unwrap();
        assert!(blocks(&arena) <= 8192);
        let mut batch = arena.assemble();
        let region = batch.reserve(LIMIT).unwrap();
        assert_eq!(batch.bytes(region)[..4096], [7; 4096]);
        assert_eq!(batch.bytes(region)[LIMIT - 1], 0);
    }
}
