//! Orders to a runner: packets on a socket, with descriptors where an order brings memory.

use super::mail::Post;
use crate::engine::LoadSpec;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use std::io::{Error, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Longest order: paths, mostly.
const ORDER_LEN_MAX: usize = 128 << 10;
/// Descriptors of a load: mail, two bells, inputs, outputs.
const LOAD_FDS: usize = 5;

/// What a worker tells a runner's main thread.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Load an engine in a thread of its own; comes with [`Shared`].
    Load {
        /// Its number from now on.
        engine: u64,
        spec: LoadSpec,
    },
    /// Stop this run, if it is not over.
    Stop { engine: u64, run: u64 },
    /// Drop the engine.
    Unload { engine: u64 },
}

/// The memory of an engine, as it crosses.
pub(super) struct Shared {
    pub(super) post: Post,
    pub(super) inputs: OwnedFd,
    pub(super) outputs: OwnedFd,
}

impl Shared {
    pub(super) fn fds(&self) -> [BorrowedFd<'_>; LOAD_FDS] {
        let Post { page, to_runner, to_worker } = &self.post;
        [page.as_fd(), to_runner.as_fd(), to_worker.as_fd(), self.inputs.as_fd(), self.outputs.as_fd()]
    }

    pub(super) fn from_fds(fds: Vec<OwnedFd>) -> Option<Self> {
        let [page, to_runner, to_worker, inputs, outputs] = <[OwnedFd; LOAD_FDS]>::try_from(fds).ok()?;
        Some(Self { post: Post { page, to_runner, to_worker }, inputs, outputs })
    }
}

/// Sends `order` with `fds`.
pub(super) fn send(socket: &OwnedFd, order: &Order, fds: &[BorrowedFd<'_>]) -> std::io::Result<()> {
    let text = serde_json::to_vec(order)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(LOAD_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Error::other("too many descriptors"));
    }
    rustix::io::retry_on_intr(|| sendmsg(socket, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Waits for an order; none when the other side is gone.
pub(super) fn receive(socket: impl AsFd) -> std::io::Result<Option<(Order, Vec<OwnedFd>)>> {
    let mut text = vec![0; ORDER_LEN_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(LOAD_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    let Some(text) = text.get(..got.bytes).filter(|text| !text.is_empty()) else { return Ok(None) };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok(Some((serde_json::from_slice(text)?, fds)))
}
