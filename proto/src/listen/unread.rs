//! A socket whose peer must read: one that takes nothing of what it is sent for too long is cut off. Without this a client that asks for
//! much and reads none of it holds its answers in our memory for as long as its connection stands.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Fails a write that has waited for `limit` without a byte being taken.
pub(super) struct Unread<S> {
    stream: S,
    limit: Duration,
    /// Called before the write fails: what the system still holds for the peer should go too.
    abandon: fn(&S),
    /// Since when a write waits. None while all are taken at once, as nearly all are: no timer is made for those.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Unread<S> {
    pub(super) fn new(stream: S, limit: Duration, abandon: fn(&S)) -> Self {
        Self { stream, limit, abandon, waiting: None }
    }

    /// What becomes of a write that came out as `written`.
    fn judge(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        // Whoever writes tries again whenever it is woken, for the peer's requests too: the clock goes on from the first try.
        let limit = self.limit;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(limit)));
        if waiting.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        (self.abandon)(&self.stream);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, format!("the peer has read nothing for {limit:?}"))))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Unread<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unread<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(cx, written)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// A socket has nothing to flush: what it has taken is the system's.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::Instant;

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_write_of_which_nothing_is_taken_fails_and_one_that_creeps_on_does_not() {
        let (ours, mut theirs) = duplex(4);
        let mut ours = Unread::new(ours, LIMIT, |_| {});
        let started = Instant::now();
        let read = async {
            for _ in 0..3 {
                tokio::time::sleep(LIMIT * 2 / 3).await; // in time every time, and later than the limit in all
                theirs.read_exact(&mut [0; 2]).await.unwrap();
            }
            Instant::now()
        };
        let write = async {
            let error = tokio::time::timeout(LIMIT * 100, ours.write_all(&[7; 100])).await.expect("an end").unwrap_err();
            (error.kind(), Instant::now())
        };
        let (read_last, (kind, failed)) = tokio::join!(read, write);
        assert_eq!((kind, read_last - started), (io::ErrorKind::TimedOut, LIMIT * 2));
        assert_eq!(failed - read_last, LIMIT);
    }
}
