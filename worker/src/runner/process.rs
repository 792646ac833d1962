//! The worker's side of a runner process.

use super::SUBCOMMAND;
use super::engine::RunnerEngine;
use super::mail::{LoadTold, Post, ring};
use super::orders::{self, Order, Shared};
use super::slots::Slots;
use crate::arena::Arena;
use crate::engine::{EngineError, EngineSignature, LoadSpec, ProviderReport};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A child process with the engines of one device. It is killed when the last engine and the worker have let it go, and ends by itself
/// when this process does.
pub(crate) struct Runner {
    device: String,
    child: Mutex<Child>,
    orders: OwnedFd,
    bells: Arc<Bells>,
    engines: AtomicU64,
}

/// Who must learn that a runner is gone.
#[derive(Default)]
struct Bells {
    /// Set under the lock of `all`.
    dead: AtomicBool,
    all: Mutex<Vec<Bell>>,
}

struct Bell {
    engine: u64,
    closed: Arc<AtomicBool>,
    bell: OwnedFd,
}

impl Bells {
    /// Wakes all that wait for an answer, for ever.
    fn close(&self) {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        self.dead.store(true, Ordering::Release);
        for Bell { closed, bell, .. } in &*all {
            closed.store(true, Ordering::Release);
            let _ = ring(bell);
        }
    }
}

impl Runner {
    /// Starts `binary` as the runner of `device`, to load engines with `libraries`.
    ///
    /// # Errors
    /// When the system gives no process, socket or thread.
    pub(super) fn start(binary: &Path, libraries: &[PathBuf], device: &str) -> Result<Self, EngineError> {
        let start = || {
            let (orders, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
            let mut command = Command::new(binary);
            command.arg(SUBCOMMAND).args(libraries).stdin(Stdio::from(theirs)).stdout(Stdio::null());
            // A group of its own: a Ctrl-C meant for the worker must not end runs that it still waits for.
            let child = command.process_group(0).spawn()?;
            drop(command); // and with it our copy of the runner's end
            let (bells, watched) = (Arc::<Bells>::default(), orders.try_clone()?);
            let theirs = bells.clone();
            let watch = move || {
                // A runner never sends: what comes is its end.
                let _ = orders::receive(&watched);
                theirs.close();
            };
            std::thread::Builder::new().name("sluice-runner".to_owned()).spawn(watch)?;
            Ok(Self { device: device.to_owned(), child: Mutex::new(child), orders, bells, engines: AtomicU64::new(0) })
        };
        start().map_err(|e: std::io::Error| EngineError::Failed { reason: format!("a runner process for {device} cannot be started: {e}") })
    }

    /// Is it still there?
    pub(super) fn lives(&self) -> bool {
        !self.bells.dead.load(Ordering::Acquire)
    }

    /// Loads an engine in it.
    pub(super) fn load(self: &Arc<Self>, spec: &LoadSpec) -> Result<RunnerEngine, EngineError> {
        let engine = self.engines.fetch_add(1, Ordering::Relaxed);
        let no_memory = |e: &dyn std::fmt::Display| EngineError::OutOfMemory { reason: format!("memory shared with a runner: {e}") };
        let arena = Arena::new(0).map_err(|e| no_memory(&e))?;
        let inputs = arena.as_fd().try_clone_to_owned().map_err(|e| no_memory(&e))?;
        let (slots, outputs) = Slots::new().map_err(|e| no_memory(&e))?;
        let shared = Shared { post: Post::new().map_err(|e| no_memory(&e))?, inputs, outputs };
        let closed = self.register(engine, &shared.post).map_err(|e| no_memory(&e))?;
        let order = Order::Load { engine, spec: spec.clone() };
        orders::send(&self.orders, &order, &shared.fds()).map_err(|_| self.ended())?;
        let mut mail = shared.post.worker(closed);
        let told: LoadTold = mail.receive().map_err(|_| self.ended())?;
        let told: Result<(ProviderReport, EngineSignature), EngineError> =
            serde_json::from_slice(&told.json).map_err(|e| EngineError::Failed { reason: format!("a runner's answer: {e}") })?;
        let (report, signature) = told.inspect_err(|_| self.unload(engine))?;
        Ok(RunnerEngine::new(self.clone(), engine, report, signature, mail, arena, slots))
    }

    fn register(&self, engine: u64, post: &Post) -> std::io::Result<Arc<AtomicBool>> {
        let bell = post.to_worker.try_clone()?;
        let mut all = self.bells.all.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = Arc::new(AtomicBool::new(self.bells.dead.load(Ordering::Acquire)));
        if closed.load(Ordering::Acquire) {
            ring(&bell)?;
        }
        all.push(Bell { engine, closed: closed.clone(), bell });
        Ok(closed)
    }

    /// Asks for `run` to be stopped.
    pub(super) fn stop(&self, engine: u64, run: u64) {
        let _ = orders::send(&self.orders, &Order::Stop { engine, run }, &[]); // one that is gone runs nothing
    }

    /// Drops `engine`.
    pub(super) fn unload(&self, engine: u64) {
        let _ = orders::send(&self.orders, &Order::Unload { engine }, &[]);
        self.bells.all.lock().unwrap_or_else(PoisonError::into_inner).retain(|bell| bell.engine != engine);
    }

    /// Its process id.
    #[cfg(test)]
    pub(super) fn id(&self) -> u32 {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).id()
    }

    /// Ends it at once: its engines fail.
    pub(crate) fn kill(&self) {
        let _ = self.child.lock().unwrap_or_else(PoisonError::into_inner).kill();
    }

    /// That it is gone, and how it went. One that does not answer as it should is ended.
    pub(super) fn ended(&self) -> EngineError {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let how = match child.wait() {
            Ok(status) => match status.signal() {
                Some(9) => "it was killed (signal 9), as happens when the host is out of memory".to_owned(),
                Some(signal) => format!("it crashed (signal {signal})"),
                None => format!("it ended with status {}", status.code().unwrap_or(-1)),
            },
            Err(error) => error.to_string(),
        };
        EngineError::Gone { reason: format!("the runner process of device {} is gone: {how}", self.device) }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }
}
