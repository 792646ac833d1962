//! The members of an etcd cluster: one in use, another after a failure.

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout};
use tonic::Code;
use tonic::transport::Endpoint;

use crate::{EtcdConfig, LeaseId, RegistryError, TlsConfig};

/// A connection that says nothing for this long is asked for a sign of life (etcd allows every 5 s) ...
const PING_EVERY: Duration = Duration::from_secs(6);
/// ... which it has to give within this time.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Clients to each member, made when first used, and which of them to use.
#[derive(Debug)]
pub(super) struct Members {
    endpoints: Vec<String>,
    slots: Vec<Slot>,
    current: AtomicUsize,
    call_timeout: Duration,
    /// Since when no member answers, so that an outage is logged once.
    away_since: Mutex<Option<Instant>>,
}

/// One member. Watches have a connection of their own: a reader that is slow to take what a watch tells fills its window, and
/// must not hold up the renewal of a lease.
struct Slot {
    calls: OnceCell<Client>,
    watches: OnceCell<Client>,
    endpoint: String,
    options: ConnectOptions,
}

/// Over which of a member's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// One question, one answer.
    Calls,
    /// Streams that stay.
    Watches,
}

/// Whether a call whose outcome is not known may be made again on another member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Doing it twice is the same as once.
    Safe,
    /// Only when it is certain that no member has seen it.
    IfUnsent,
}

/// Why one member did not do what was asked.
#[derive(Debug)]
pub(super) enum Fault {
    /// It never saw the call, or turned it away unread.
    Unsent(String),
    /// It may have seen it.
    Unanswered(String),
    /// It answered no, and so would every other.
    Refused(RegistryError),
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the options: they hold the password.
        f.debug_struct("Slot").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Members {
    pub(super) fn new(config: EtcdConfig) -> Result<Self, RegistryError> {
        if config.endpoints.is_empty() {
            return Err(mistake("endpoints", "none given"));
        }
        let mut options = ConnectOptions::new()
            .with_connect_timeout(config.call_timeout)
            .with_keep_alive(PING_EVERY, PING_TIMEOUT)
            .with_keep_alive_while_idle(false)
            .with_require_leader(true);
        let tls = config.tls.as_ref().map(tls_options).transpose();
        check_endpoints(&config.endpoints, config.tls.is_some())?;
        if let Some(tls) = tls? {
            for endpoint in &config.endpoints {
                let checked = Endpoint::from_shared(endpoint.clone()).and_then(|made| made.tls_config(tls.clone()));
                checked.map_err(|error| mistake("tls", &describe(&error)))?;
            }
            options = options.with_tls(tls);
        }
        if let Some(credentials) = config.credentials {
            options = options.with_user(credentials.user, credentials.password).with_auto_token_refresh(true);
        }
        let slot = |endpoint: &String| Slot {
            calls: OnceCell::new(),
            watches: OnceCell::new(),
            endpoint: endpoint.clone(),
            options: options.clone(),
        };
        Ok(Self {
            slots: config.endpoints.iter().map(slot).collect(),
            // Each process begins elsewhere, so that one member does not carry all.
            current: AtomicUsize::new(fastrand::usize(..config.endpoints.len())),
            endpoints: config.endpoints,
            call_timeout: config.call_timeout,
            away_since: Mutex::new(None),
        })
    }

    pub(super) fn len(&self) -> usize {
        self.endpoints.len()
    }

    pub(super) fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// Leaves member `at`, unless someone has left it already.
    pub(super) fn leave(&self, at: usize) {
        let next = at.saturating_add(1).checked_rem(self.len()).unwrap_or(0);
        let _ = self.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Makes a call, on as many members as it takes and `repeat` allows.
    pub(super) async fn call<T, F>(&self, repeat: Repeat, call: impl Fn(Client) -> F) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut cause = String::new();
        // A single member gets a second chance, too: the first call after its restart finds a dead connection.
        for tried in 1..=self.len().max(2) {
            let at = self.current();
            let (unsent, why) = match self.attempt(at, Lane::Calls, &call).await {
                Ok(answer) => {
                    self.back();
                    return Ok(answer);
                }
                Err(Fault::Refused(error)) => {
                    self.back();
                    return Err(error);
                }
                Err(Fault::Unsent(why)) => (true, why),
                Err(Fault::Unanswered(why)) => (false, why),
            };
            self.leave(at);
            cause = why;
            if tried >= self.len() {
                self.away(&cause);
            }
            if repeat == Repeat::IfUnsent && !unsent {
                break;
            }
        }
        Err(RegistryError::Unavailable { endpoints: self.endpoints.clone(), cause })
    }

    /// Makes a call on member `at`, within the time-out of one call.
    pub(super) async fn attempt<T, F>(&self, at: usize, lane: Lane, call: &impl Fn(Client) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let Some(slot) = self.slots.get(at) else {
            return Err(Fault::Unsent(format!("no member {at}")));
        };
        let work = async {
            let connect = || Client::connect([slot.endpoint.as_str()], Some(slot.options.clone()));
            let client = match lane {
                Lane::Calls => &slot.calls,
                Lane::Watches => &slot.watches,
            };
            let client = client.get_or_try_init(connect).await.map_err(|error| fault(error).unsent())?;
            call(client.clone()).await.map_err(fault)
        };
        match timeout(self.call_timeout, work).await {
            Ok(done) => done,
            Err(_) => Err(Fault::Unanswered(format!("no answer within {:?}", self.call_timeout))),
        }
    }

    fn away_since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.away_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No member answers: said once, until one does.
    pub(super) fn away(&self, cause: &str) {
        let mut since = self.away_since();
        if since.is_none() {
            *since = Some(Instant::now());
            tracing::warn!(endpoints = ?self.endpoints, cause, "etcd is away, going on with what is known");
        }
    }

    /// A member has answered.
    pub(super) fn back(&self) {
        if let Some(since) = self.away_since().take() {
            tracing::info!(seconds = since.elapsed().as_secs(), "etcd is back");
        }
    }
}

impl Fault {
    /// The same, known to have happened before the call itself was made.
    fn unsent(self) -> Self {
        match self {
            Self::Unanswered(cause) => Self::Unsent(cause),
            other => other,
        }
    }
}

/// What an error of the client means to us. Where trying again can help is decided here.
fn fault(error: etcd_client::Error) -> Fault {
    let status = match error {
        etcd_client::Error::GRpcStatus(status) => status,
        etcd_client::Error::LeaseKeepAliveError(cause) if cause.contains("not found") => {
            return no_lease();
        }
        etcd_client::Error::InvalidArgs(cause) => {
            return Fault::Refused(RegistryError::Refused { cause });
        }
        etcd_client::Error::TransportError(error) => return Fault::Unanswered(describe(&error)),
        other => return Fault::Unanswered(describe(&other)),
    };
    let message = status.message();
    match status.code() {
        Code::Unavailable if was_refused(&status) => Fault::Unsent(describe(&status)),
        Code::Unavailable if message.contains("no leader") => Fault::Unsent(message.to_owned()),
        Code::ResourceExhausted if message.contains("too many requests") => Fault::Unsent(message.to_owned()),
        Code::OutOfRange if message.contains("compacted") => Fault::Unanswered(message.to_owned()),
        Code::NotFound if message.contains("lease") => no_lease(),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal | Code::Aborted | Code::DataLoss => {
            Fault::Unanswered(describe(&status))
        }
        _ => Fault::Refused(RegistryError::Refused { cause: message.to_owned() }),
    }
}

/// The client does not say which lease; who made the call does.
fn no_lease() -> Fault {
    Fault::Refused(RegistryError::LeaseGone { id: LeaseId(0) })
}

/// Whether there was no connection at all, so that nothing can have been sent.
fn was_refused(error: &(dyn Error + 'static)) -> bool {
    chain(error).any(|error| error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused))
}

/// An error with its causes, each once.
pub(super) fn describe(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for error in chain(error) {
        // tonic's status repeats itself at length; its message says it all.
        let part = error.downcast_ref::<tonic::Status>().map_or_else(|| error.to_string(), |status| status.message().to_owned());
        if !part.is_empty() && !text.contains(&part) {
            text = if text.is_empty() { part } else { format!("{text}: {part}") };
        }
    }
    text
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| Error::source(*error))
}

fn mistake(setting: &str, cause: &str) -> RegistryError {
    RegistryError::Config { setting: setting.to_owned(), cause: cause.to_owned() }
}

fn check_endpoints(endpoints: &[String], tls: bool) -> Result<(), RegistryError> {
    for endpoint in endpoints {
        let scheme = match Endpoint::from_shared(endpoint.clone()) {
            Ok(made) => made.uri().scheme_str().unwrap_or_default().to_owned(),
            Err(error) => {
                return Err(mistake("endpoints", &format!("`{endpoint}`: {}", describe(&error))));
            }
        };
        match (scheme.as_str(), tls) {
            ("http", false) | ("https", true) => {}
            ("http", true) => return Err(mistake("tls", &format!("`{endpoint}` is not https"))),
            ("https", false) => {
                return Err(mistake("tls", &format!("`{endpoint}` is https: give at least the ca")));
            }
            _ => {
                return Err(mistake("endpoints", &format!("`{endpoint}`: write http://host:port or https://host:port")));
            }
        }
    }
    Ok(())
}

fn tls_options(config: &TlsConfig) -> Result<TlsOptions, RegistryError> {
    let read =
        |setting: &str, path: &Path| std::fs::read(path).map_err(|error| mistake(setting, &format!("`{}`: {error}", path.display())));
    let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read("tls.ca", &config.ca)?));
    match (&config.cert, &config.key) {
        (Some(cert), Some(key)) => {
            tls = tls.identity(Identity::from_pem(read("tls.cert", cert)?, read("tls.key", key)?));
        }
        (None, None) => {}
        (Some(_), None) => return Err(mistake("tls.key", "missing: `tls.cert` is given")),
        (None, Some(_)) => return Err(mistake("tls.cert", "missing: `tls.key` is given")),
    }
    if let Some(domain) = &config.domain {
        tls = tls.domain_name(domain.clone());
    }
    Ok(tls)
}
