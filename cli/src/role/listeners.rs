//! Sockets are bound before anything is loaded: a taken port fails first.

use anyhow::Context as _;
use tokio::net::TcpListener;

/// Binds `address`, which `flag` gave. Port 0 takes a free one.
pub(crate) async fn bind(flag: &str, address: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("--{flag} {address} cannot be bound; is something else running there?"))
}
