//! What a process of this bench allocates, counted in front of the system's allocator while somebody wants to know it: the shipped binary
//! stays as it is.
#![allow(unsafe_code, reason = "an allocator is unsafe by its trait; this one counts, and hands everything on as it came")]

use anyhow::Context as _;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// The allocator of this program.
pub(crate) struct Counting {
    is_on: AtomicBool,
    count: AtomicU64,
    bytes: AtomicU64,
}

/// What was allocated; a block that was made larger counts once more, with its new length.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Allocated {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
}

impl Counting {
    pub(crate) const fn new() -> Self {
        Self { is_on: AtomicBool::new(false), count: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }

    fn add(&self, bytes: usize) {
        if self.is_on.load(Ordering::Relaxed) {
            self.count.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// Begins to count from zero, or ends it and tells.
    fn switch(&self) -> Allocated {
        let was_on = self.is_on.fetch_xor(true, Ordering::Relaxed);
        let (count, bytes) = (self.count.swap(0, Ordering::Relaxed), self.bytes.swap(0, Ordering::Relaxed));
        if was_on { Allocated { count, bytes } } else { Allocated::default() }
    }
}

// SAFETY: each method is System's, called with what it was called with.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.add(layout.size());
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.add(layout.size());
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.add(size);
        // SAFETY: the caller keeps the contract.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Every other connection to `listener` begins the counting of this process, those between end it and are told.
pub(crate) async fn tell(listener: TcpListener, allocator: &'static Counting) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let Allocated { count, bytes } = allocator.switch();
        let _ = stream.write_all(format!("{count} {bytes}").as_bytes()).await;
    }
}

/// Begins the counting of the process that [tells](tell) at `address`, or ends it.
pub(crate) async fn switch(address: &str) -> anyhow::Result<Allocated> {
    let mut text = String::new();
    TcpStream::connect(address).await?.read_to_string(&mut text).await?;
    let (count, bytes) = text.split_once(' ').context("not two numbers")?;
    Ok(Allocated { count: count.parse()?, bytes: bytes.parse()? })
}
