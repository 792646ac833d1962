//! Shared memory as the side sees it that did not make it: a file that only grows.
#![allow(unsafe_code, reason = "mapping memory that another process writes to")]

use crate::arena::Region;
use memmap2::{MmapOptions, MmapRaw};
use std::os::fd::OwnedFd;

/// A mapping of all of a memfd, made anew when more of it is needed.
pub(super) struct Window {
    fd: OwnedFd,
    map: Option<MmapRaw>,
}

impl Window {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self { fd, map: None }
    }

    /// The bytes of `region`; none when the file is shorter than that.
    pub(super) fn bytes(&mut self, region: Region) -> Option<&[u8]> {
        let start = self.start(region)?;
        // SAFETY: `start` tells that the mapping holds the region, and the file cannot get shorter. The other side writes there between
        // runs only.
        Some(unsafe { std::slice::from_raw_parts(start, region.len) })
    }

    /// The same to write to.
    pub(super) fn bytes_mut(&mut self, region: Region) -> Option<&mut [u8]> {
        let start = self.start(region)?;
        // SAFETY: as above; what is written here is read by the other side after the answer only.
        Some(unsafe { std::slice::from_raw_parts_mut(start, region.len) })
    }

    /// Makes sure that `bytes` of the file are mapped, for regions that are looked at together.
    pub(super) fn reach(&mut self, bytes: usize) -> Option<()> {
        if self.map.as_ref().is_some_and(|map| map.len() >= bytes) {
            return Some(());
        }
        let len = usize::try_from(rustix::fs::fstat(&self.fd).ok()?.st_size).ok()?;
        if len < bytes {
            return None;
        }
        self.map = Some(MmapOptions::new().len(len).map_raw(&self.fd).ok()?);
        Some(())
    }

    /// The bytes of `region` where [`reach`](Self::reach) has been there.
    pub(super) fn reached(&self, region: Region) -> Option<&[u8]> {
        let map = self.map.as_ref()?;
        let end = region.offset.checked_add(region.len)?;
        // SAFETY: within the mapping; for the rest as above.
        (end <= map.len()).then(|| unsafe { std::slice::from_raw_parts(map.as_ptr().add(region.offset), region.len) })
    }

    fn start(&mut self, region: Region) -> Option<*mut u8> {
        let end = region.offset.checked_add(region.len)?;
        self.reach(end)?;
        let map = self.map.as_ref()?;
        // SAFETY: `reach` has mapped up to `end`.
        Some(unsafe { map.as_mut_ptr().add(region.offset) })
    }
}
