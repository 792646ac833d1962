//! Sockets are bound before anything is loaded: a taken port fails first.

use crate::args::Front;
use crate::telemetry::say;
use anyhow::Context as _;
use proto::listen::Limits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
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
    let descriptors = raise_descriptors();
    let wanted = (Limits::EDGE.connections_max as u64).saturating_add(OTHER_DESCRIPTORS);
    if descriptors < wanted {
        tracing::warn!(
            descriptors,
            wanted,
            "clients' connections may use up this process's file descriptors; raise the hard limit (ulimit -Hn)"
        );
    }
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

/// Descriptors beside clients' connections: connections to workers and the registry, files, the runtimes' own.
const OTHER_DESCRIPTORS: u64 = 500;

/// Lets this process have as many file descriptors as the system allows it, and tells how many those are. The usual 1,024 are kept low for
/// programs that use `select`, which cannot see higher ones; this is none.
pub(crate) fn raise_descriptors() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let stands = if raised.is_ok() { maximum } else { current };
    stands.unwrap_or(u64::MAX)
}

/// Binds `address`, which `flag` gave. Port 0 takes a free one.
pub(crate) async fn bind(flag: &str, address: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("--{flag} {address} cannot be bound; is something else running there?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_takes_the_descriptors_it_is_allowed() {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum }).unwrap();
        assert_eq!(raise_descriptors(), maximum.unwrap_or(u64::MAX));
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
    }
}
