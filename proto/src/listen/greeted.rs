//! A socket whose first bytes have been read to learn its protocol, and are read again by who serves it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What every HTTP/2 client begins with (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Enough to tell it from any HTTP/1 request; none is shorter.
const TELLING_BYTES: usize = 3;

/// Gives the bytes read first, then the rest.
pub(super) struct Greeted {
    greeting: [u8; PREFACE.len()],
    len: usize,
    given: usize,
    stream: TcpStream,
}

impl Greeted {
    /// Waits for the preface; for three bytes of a client that does not begin like one.
    pub(super) async fn read(mut stream: TcpStream) -> io::Result<Self> {
        let mut greeting = [0; PREFACE.len()];
        let (telling, rest) = greeting.split_at_mut(TELLING_BYTES);
        stream.read_exact(telling).await?;
        let is_http2 = PREFACE.starts_with(telling);
        if is_http2 {
            stream.read_exact(rest).await?;
        }
        Ok(Self { greeting, len: if is_http2 { PREFACE.len() } else { TELLING_BYTES }, given: 0, stream })
    }

    /// Makes the end of the socket a reset: what the peer has not taken is dropped at once, where an orderly end would leave it with the
    /// system, which offers it for minutes more.
    pub(super) fn abandon(&self) {
        let _ = self.stream.set_zero_linger(); // a socket that is gone already needs none
    }

    /// Does the client speak HTTP/2? Whether it does so well is for hyper to say.
    pub(super) fn is_http2(&self) -> bool {
        self.len == PREFACE.len()
    }
}

impl AsyncRead for Greeted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let left = self.greeting.get(self.given..self.len).unwrap_or_default();
        if left.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let count = left.len().min(buffer.remaining());
        buffer.put_slice(left.get(..count).unwrap_or_default());
        self.given = self.given.saturating_add(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Greeted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
