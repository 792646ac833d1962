//! One region: a range of an open shared memory object.

use super::{NAME_BYTES_MAX, RegionStatus, shown};
use bytes::Bytes;
use policy::Failure;
use proto::chain::Chain;
use rustix::fs::{FileType, Mode, fstat};
use rustix::io::{Errno, pread, pwrite, retry_on_intr};
use rustix::shm;
use std::os::fd::OwnedFd;

/// Keys that start like this belong to servers, not to clients.
const RESERVED_PREFIXES: [&str; 2] = ["triton_python_backend_shm_region_", "sluice"];
/// Longest key that the system takes.
const KEY_BYTES_MAX: usize = 255;

/// A range of an object, which stays open for as long as a request uses it.
#[derive(Debug)]
pub(super) struct Region {
    pub(super) status: RegionStatus,
    object: OwnedFd,
}

impl Region {
    /// Opens the object and checks that it is what is said.
    pub(super) fn open(status: RegionStatus) -> Result<Self, Failure> {
        let refused = |what: String| Failure::Region { region: shown(&status.name), what };
        if status.name.is_empty() || status.name.len() > NAME_BYTES_MAX {
            return Err(refused(format!("its name has {} bytes, expected 1 to {NAME_BYTES_MAX}", status.name.len())));
        }
        check_key(&status.key).map_err(&refused)?;
        // rustix follows symbolic links where the C library does not: a link must not lead this process to other files.
        let flags = shm::OFlags::RDWR | shm::OFlags::from_bits_retain(rustix::fs::OFlags::NOFOLLOW.bits());
        let cannot = |cause: Errno| refused(format!("object `{}` cannot be opened: {}", status.key, std::io::Error::from(cause)));
        let object = retry_on_intr(|| shm::open(status.key.as_str(), flags, Mode::empty())).map_err(cannot)?;
        let stat = fstat(&object).map_err(cannot)?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(refused(format!("`{}` is not a shared memory object", status.key)));
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let (offset, byte_size) = (status.offset, status.byte_size);
        let inside = offset.checked_add(byte_size).is_some_and(|end| end <= size);
        if byte_size == 0 || !inside {
            let key = &status.key;
            return Err(refused(format!("{byte_size} bytes at offset {offset} are not a range within object `{key}` of {size} bytes")));
        }
        Ok(Self { status, object })
    }

    /// Is this range within the region?
    ///
    /// # Errors
    /// [`Failure::Region`] with all three numbers.
    pub(super) fn check(&self, offset: u64, byte_size: u64) -> Result<(), Failure> {
        let end = offset.checked_add(byte_size);
        if end.is_some_and(|end| end <= self.status.byte_size) {
            return Ok(());
        }
        Err(self.failure(format!("{byte_size} bytes at offset {offset} are not within its {} bytes", self.status.byte_size)))
    }

    /// A copy of `byte_size` bytes at `offset` of the region.
    ///
    /// # Errors
    /// [`Failure::Region`] when they are not within the region, or the object is smaller than it was.
    pub(super) fn read(&self, offset: u64, byte_size: u64) -> Result<Bytes, Failure> {
        self.check(offset, byte_size)?;
        let len = usize::try_from(byte_size).map_err(|_| self.failure(format!("{byte_size} bytes cannot be addressed")))?;
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let at = self.in_object(offset, bytes.len());
            match retry_on_intr(|| pread(&self.object, rustix::buffer::spare_capacity(&mut bytes), at)) {
                Ok(0) => return Err(self.shrank(offset, byte_size, bytes.len() as u64)),
                Ok(_) => {}
                Err(cause) => return Err(self.failed("read", cause)),
            }
        }
        bytes.truncate(len); // the room may have been more than asked for
        Ok(bytes.into())
    }

    /// Writes `bytes` at `offset` of the region.
    ///
    /// # Errors
    /// [`Failure::Region`] when they do not fit into the region, or the object is smaller than it was.
    pub(super) fn write(&self, offset: u64, bytes: &Chain) -> Result<(), Failure> {
        let byte_size = bytes.len() as u64;
        self.check(offset, byte_size)?;
        // Writing past the end would grow the object again. A client that shrinks it just now only gets its own size back.
        let size = fstat(&self.object).map_err(|cause| self.failed("written", cause))?.st_size;
        let left = u64::try_from(size).unwrap_or(0).saturating_sub(self.in_object(offset, 0));
        if left < byte_size {
            return Err(self.shrank(offset, byte_size, left));
        }
        let mut written = 0usize;
        for slice in bytes.slices() {
            let mut rest: &[u8] = slice;
            while !rest.is_empty() {
                let at = self.in_object(offset, written);
                let step = match retry_on_intr(|| pwrite(&self.object, rest, at)) {
                    Ok(step) if step > 0 => step,
                    other => return Err(self.failed("written", other.err().unwrap_or(Errno::IO))),
                };
                written = written.saturating_add(step);
                rest = rest.get(step..).unwrap_or_default();
            }
        }
        Ok(())
    }

    /// Position in the object. Registering has checked that the whole region has one.
    fn in_object(&self, offset: u64, further: usize) -> u64 {
        self.status.offset.saturating_add(offset).saturating_add(further as u64)
    }

    fn shrank(&self, offset: u64, expected: u64, left: u64) -> Failure {
        let key = &self.status.key;
        self.failure(format!("object `{key}` has shrunk: of {expected} bytes at offset {offset} {left} are left"))
    }

    fn failed(&self, what: &str, cause: Errno) -> Failure {
        self.failure(format!("object `{}` cannot be {what}: {}", self.status.key, std::io::Error::from(cause)))
    }

    fn failure(&self, what: String) -> Failure {
        Failure::Region { region: self.status.name.clone(), what }
    }
}

/// A key is one name, with or without a slash in front.
fn check_key(key: &str) -> Result<(), String> {
    let name = key.strip_prefix('/').unwrap_or(key);
    let plain = !name.is_empty() && key.len() <= KEY_BYTES_MAX && !matches!(name, "." | "..") && !name.contains(['/', '\0']);
    if !plain {
        return Err(format!("key {:?} is not allowed: use one name of at most {KEY_BYTES_MAX} bytes without a further slash", shown(key)));
    }
    match RESERVED_PREFIXES.into_iter().find(|prefix| name.starts_with(prefix)) {
        Some(prefix) => Err(format!("key {key:?} is not allowed: names that start with `{prefix}` are reserved")),
        None => Ok(()),
    }
}
