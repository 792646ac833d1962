//! Sockets are bound before anything is loaded: a taken port fails first.

use crate::args::Front;
use crate::telemetry::say;
use anyhow::Context as _;
use tokio::net::TcpListener;

/// The listeners of a gateway.
pub(crate) struct Doors {
    /// HTTP and gRPC.
    pub(crate) front: Vec<TcpListener>,
    pub(crate) admin: TcpListener,
    /// Nobody outside this host reaches the front.
    pub(crate) loopback: bool,
}

/// Binds them, and prints where.
pub(crate) async fn doors(flags: &Front) -> anyhow::Result<Doors> {
    let http = bind("http", &flags.http).await?;
    let grpc = bind("grpc", &flags.grpc).await?;
    let admin = bind("admin", &flags.admin).await?;
    let loopback = http.local_addr()?.ip().is_loopback() && grpc.local_addr()?.ip().is_loopback();
    anyhow::ensure!(
        loopback || !flags.allow_client_shm,
        "--allow-client-shm needs --http and --grpc on loopback: a client on another host has no memory to share"
    );
    say(&format!("listening: http {}, grpc {}, admin {}", http.local_addr()?, grpc.local_addr()?, admin.local_addr()?));
    Ok(Doors { front: vec![http, grpc], admin, loopback })
}

/// Binds `address`, which `flag` gave. Port 0 takes a free one.
pub(crate) async fn bind(flag: &str, address: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("--{flag} {address} cannot be bound; is something else running there?"))
}
