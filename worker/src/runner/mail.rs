//! What belongs to a run, between the two threads of an engine: messages in a shared page, one in each direction at a time, and an
//! eventfd each way that tells of them.

use super::window::Window;
use crate::arena::{ALIGN, Region};
use rustix::event::EventfdFlags;
use rustix::fs::{MemfdFlags, SealFlags};
use std::io::{Error, ErrorKind};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Longest message; pages that no message reaches take no memory.
const MESSAGE_LEN_MAX: usize = 4 << 20;
/// A message starts behind its length.
const HEADER: usize = ALIGN;

/// Asks for a run, or for the outputs of the last one once more in a larger slot.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Ask {
    /// Number of the run, from 1; 0 for the last one's outputs.
    #[prost(uint64, tag = "1")]
    pub(super) run: u64,
    #[prost(message, repeated, tag = "2")]
    pub(super) inputs: Vec<Tensor>,
    /// Where the outputs go.
    #[prost(uint64, tag = "3")]
    pub(super) slot: u64,
    #[prost(uint64, tag = "4")]
    pub(super) slot_len: u64,
}

/// What came of a run.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Told {
    #[prost(message, repeated, tag = "1")]
    pub(super) outputs: Vec<Tensor>,
    /// Bytes that the outputs take, when the slot is too small: nothing was written.
    #[prost(uint64, tag = "2")]
    pub(super) needed: u64,
    /// A [`crate::engine::EngineError`] as JSON; empty when there was none.
    #[prost(bytes = "vec", tag = "3")]
    pub(super) error: Vec<u8>,
}

/// What came of a load: `Result<(ProviderReport, EngineSignature), EngineError>` as JSON.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LoadTold {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) json: Vec<u8>,
}

/// A tensor and where its bytes lie.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Tensor {
    /// Place in the signature.
    #[prost(uint32, tag = "1")]
    pub(super) place: u32,
    /// Place in [`policy::DataType::ALL`].
    #[prost(uint32, tag = "2")]
    pub(super) datatype: u32,
    #[prost(int64, repeated, tag = "3")]
    pub(super) shape: Vec<i64>,
    #[prost(uint64, tag = "4")]
    pub(super) offset: u64,
    #[prost(uint64, tag = "5")]
    pub(super) len: u64,
}

impl Tensor {
    /// Where it lies.
    pub(super) fn region(&self) -> Option<Region> {
        Some(Region { offset: usize::try_from(self.offset).ok()?, len: usize::try_from(self.len).ok()? })
    }
}

/// The descriptors under a [`Mail`], for the other process.
pub(super) struct Post {
    pub(super) page: OwnedFd,
    pub(super) to_runner: OwnedFd,
    pub(super) to_worker: OwnedFd,
}

impl Post {
    pub(super) fn new() -> std::io::Result<Self> {
        let page = rustix::fs::memfd_create("sluice-mail", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&page, 2 * (HEADER + MESSAGE_LEN_MAX) as u64)?;
        rustix::fs::fcntl_add_seals(&page, SealFlags::SHRINK)?;
        let bell = || rustix::event::eventfd(0, EventfdFlags::CLOEXEC);
        Ok(Self { page, to_runner: bell()?, to_worker: bell()? })
    }

    /// The worker's side.
    pub(super) fn worker(self, closed: Arc<AtomicBool>) -> Mail {
        let (page, far) = (Window::new(self.page), HEADER + MESSAGE_LEN_MAX);
        Mail { page, outbox: 0, inbox: far, ring: self.to_runner, bell: self.to_worker, closed, buffer: Vec::new() }
    }

    /// The runner's side.
    pub(super) fn runner(self, closed: Arc<AtomicBool>) -> Mail {
        let (page, far) = (Window::new(self.page), HEADER + MESSAGE_LEN_MAX);
        Mail { page, outbox: far, inbox: 0, ring: self.to_worker, bell: self.to_runner, closed, buffer: Vec::new() }
    }
}

/// One side's mail.
pub(super) struct Mail {
    page: Window,
    outbox: usize,
    inbox: usize,
    ring: OwnedFd,
    bell: OwnedFd,
    /// Set, and the bell rung, when nothing will come any more.
    closed: Arc<AtomicBool>,
    buffer: Vec<u8>,
}

impl Mail {
    /// Writes `message` and wakes the other side, which must have read the last one.
    pub(super) fn send(&mut self, message: &impl prost::Message) -> std::io::Result<()> {
        let len = message.encoded_len();
        let room = self.page.bytes_mut(Region { offset: self.outbox, len: HEADER.saturating_add(len) });
        let room = room.filter(|_| len <= MESSAGE_LEN_MAX).and_then(|room| room.split_at_mut_checked(HEADER));
        let Some((header, mut body)) = room else {
            return Err(Error::other(format!("a message of {len} bytes, but {MESSAGE_LEN_MAX} fit between worker and runner")));
        };
        message.encode(&mut body).map_err(Error::other)?;
        if let Some(header) = header.first_chunk_mut() {
            *header = (len as u64).to_ne_bytes();
        }
        ring(&self.ring)
    }

    /// Waits for a message.
    pub(super) fn receive<M: prost::Message + Default>(&mut self) -> std::io::Result<M> {
        let mut count = [0u8; 8];
        rustix::io::retry_on_intr(|| rustix::io::read(&self.bell, &mut count))?;
        if self.closed.load(Ordering::Acquire) {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let wrong = || Error::other("a message that is none");
        let header = self.page.bytes(Region { offset: self.inbox, len: HEADER }).and_then(|bytes| bytes.first_chunk::<8>());
        let len = header.and_then(|len| usize::try_from(u64::from_ne_bytes(*len)).ok()).filter(|len| *len <= MESSAGE_LEN_MAX);
        let len = len.ok_or_else(wrong)?;
        let offset = self.inbox.saturating_add(HEADER);
        // Copied before it is read: whoever shares the page could change it meanwhile.
        self.buffer.clear();
        self.buffer.extend_from_slice(self.page.bytes(Region { offset, len }).ok_or_else(wrong)?);
        M::decode(self.buffer.as_slice()).map_err(Error::other)
    }
}

/// Wakes whoever waits at the other end of `bell`.
pub(super) fn ring(bell: &OwnedFd) -> std::io::Result<()> {
    rustix::io::retry_on_intr(|| rustix::io::write(bell, &1u64.to_ne_bytes()))?;
    Ok(())
}
