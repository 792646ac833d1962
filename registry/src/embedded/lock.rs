//! One process per data directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use crate::RegistryError;

/// Holds a data directory; the system lets go of it when this is dropped or its process ends, however it ends.
#[derive(Debug)]
pub(super) struct DirLock {
    _file: File,
}

impl DirLock {
    /// Takes `dir/lock`, in which the holder's process id stands.
    pub(super) fn take(dir: &Path) -> Result<Self, RegistryError> {
        let path = dir.join("lock");
        let fault = |action| {
            let path = path.clone();
            move |error| RegistryError::disk(action, &path, &error)
        };
        // Not truncated: the file is the holder's until the lock is ours.
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = options.map_err(fault("open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(RegistryError::Locked { path, pid });
            }
            Err(TryLockError::Error(error)) => return Err(fault("lock")(error)),
        }
        file.set_len(0).map_err(fault("write"))?;
        file.rewind().map_err(fault("write"))?;
        writeln!(file, "{}", std::process::id()).map_err(fault("write"))?;
        Ok(Self { _file: file })
    }
}
