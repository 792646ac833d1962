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

    /// Makes sure that `bytes` of the file are mapped; none when it is shorter than that.
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

    /// The bytes of `region`, as far as [`reach`](Self::reach) has been.
    pub(super) fn reached(&self, region: Region) -> Option<&[u8]> {
        let map = self.map.as_ref()?;
        let end = region.offset.checked_add(region.len)?;
        // SAFETY: within the mapping, and the file cannot get shorter. The other side writes there between runs only.
        (end <= map.len()).then(|| unsafe { std::slice::from_raw_parts(map.as_ptr().add(region.offset), region.len) })
    }

    /// The bytes of `region`.
    pub(super) fn bytes(&mut self, region: Region) -> Option<&[u8]> {
        self.reach(region.offset.checked_add(region.len)?)?;
        self.reached(region)
    }

    /// The same to write to.
    pub(super) fn bytes_mut(&mut self, region: Region) -> Option<&mut [u8]> {
        self.reach(region.offset.checked_add(region.len)?)?;
        let map = self.map.as_ref()?;
        // SAFETY: `reach` has mapped all of the region; what is written here the other side reads after it was told only.
        Some(unsafe { std::slice::from_raw_parts_mut(map.as_mut_ptr().add(region.offset), region.len) })
    }
}
