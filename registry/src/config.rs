//! Which store, and how to reach it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::{Embedded, Etcd, Registry, RegistryError};

/// Which store holds the registry.
#[derive(Debug, Clone)]
pub enum RegistryConfig {
    /// This process, alone.
    Embedded {
        /// Where the journal lies; without one, everything is forgotten at the end.
        data_dir: Option<PathBuf>,
    },
    /// An etcd cluster.
    Etcd(EtcdConfig),
}

/// How to reach etcd.
#[derive(Debug, Clone)]
pub struct EtcdConfig {
    /// The members' client addresses, `http://host:2379` or `https://`. One is used at a time, another after a failure.
    pub endpoints: Vec<String>,
    /// For `https` endpoints.
    pub tls: Option<TlsConfig>,
    /// For an etcd with authentication switched on.
    pub credentials: Option<Credentials>,
    /// How long one call to one member may take.
    pub call_timeout: Duration,
}

/// Whom to trust and how to show who we are. Files are PEM, read when the registry is opened.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// The authority that signed the members' certificates.
    pub ca: PathBuf,
    /// Our own certificate, if etcd asks for one. Needs `key`.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// The name in the members' certificates, where it is not that in the endpoint.
    pub domain: Option<String>,
}

/// An etcd user.
#[derive(Clone)]
pub struct Credentials {
    /// The name.
    pub user: String,
    /// The password, never shown.
    pub password: String,
}

impl EtcdConfig {
    /// Plain endpoints and the usual time-out of 2 s a call.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            tls: None,
            credentials: None,
            call_timeout: Duration::from_secs(2),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Opens the registry. An absent etcd is no error here: calls fail until it answers, watches wait for it.
pub fn open(config: RegistryConfig) -> Result<Arc<dyn Registry>, RegistryError> {
    Ok(match config {
        RegistryConfig::Embedded { data_dir } => Arc::new(Embedded::open(data_dir.as_deref())?),
        RegistryConfig::Etcd(config) => Arc::new(Etcd::connect(config)?),
    })
}
