//! Following a prefix through whatever happens to the store.
//!
//! States: *unknown* (list, tell a Reset) -> *known up to a revision* (watch from the next one) -> after a break, known still:
//! another member, the same revision. Back to unknown when the history is compacted, the cluster is another one, or the store
//! has gone back. A store wiped and filled again beyond our revision shows none of these signs: soon after every break, and
//! now and then without one, everything is listed anew.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, EventType, WatchOptions, WatchResponse, WatchStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::members::{Fault, Lane, Members, describe};
use super::{ANSWER_BYTES_MAX, Listed, entry, list};
use crate::backoff::{Backoff, jitter};
use crate::{Change, RegistryError};

/// How often everything is listed anew, give or take a fifth.
const RELIST_EVERY: Duration = Duration::from_secs(60);
/// How soon after a break, or after a listing that failed, at the latest.
const RELIST_SOON: Duration = Duration::from_secs(5);
/// A stream that lived this long was a good one: the next break is a new story.
const STEADY: Duration = Duration::from_secs(5);

/// Up to where a reader knows what there is.
#[derive(Debug, Clone, Copy)]
struct Position {
    revision: i64,
    cluster: u64,
}

/// Why following has to begin anew.
#[derive(Debug)]
enum End {
    /// The reader has gone.
    Closed,
    /// The stream is broken; what is known is still good.
    Broken(String),
    /// What is known cannot be continued.
    Gap(String),
    /// The store refuses us.
    Refused(RegistryError),
}

/// Whether an open stream goes on from where a new listing is.
enum Continuity {
    Kept,
    Lost,
}

/// One watch: what it has told its reader, and to whom it tells it.
struct Follower {
    members: Arc<Members>,
    prefix: String,
    sender: mpsc::Sender<Change>,
    position: Option<Position>,
    /// Something has happened after which a listing is due soon.
    doubtful: bool,
    /// The member did not take our token (they run out, and end with the member): the next stream needs a new one.
    unauthorised: bool,
    /// Since when the present stream is open.
    opened: Option<Instant>,
}

/// Tells `sender` what happens under `prefix` until it is closed.
pub(super) async fn follow(members: Arc<Members>, prefix: String, sender: mpsc::Sender<Change>) {
    let mut follower = Follower::new(members, prefix, sender);
    let mut backoff = Backoff::default();
    let (mut failures, mut told) = (0_usize, false);
    loop {
        let member = follower.members.current();
        let end = follower.once(member).await;
        if follower.opened.take().is_some_and(|opened| opened.elapsed() >= STEADY) {
            (failures, told) = (0, false);
            backoff.reset();
        }
        failures = failures.saturating_add(1);
        let prefix = follower.prefix.as_str();
        match end {
            End::Closed => return,
            End::Broken(cause) => {
                tracing::debug!(prefix, cause, "watch broken, resuming");
                follower.members.leave(member);
                if failures >= follower.members.len() {
                    follower.members.away(&cause);
                }
            }
            End::Gap(cause) => {
                tracing::info!(prefix, cause, "watch cannot resume, listing anew");
                follower.position = None;
            }
            End::Refused(error) => {
                if !told {
                    tracing::warn!(prefix, %error, "watch refused, trying again");
                }
                told = true;
                follower.members.leave(member);
            }
        }
        follower.doubtful = true;
        // Every other member is tried at once before anything is waited for.
        if failures >= follower.members.len() {
            sleep(backoff.next()).await;
        }
    }
}

impl Follower {
    fn new(members: Arc<Members>, prefix: String, sender: mpsc::Sender<Change>) -> Self {
        Self { members, prefix, sender, position: None, doubtful: false, unauthorised: false, opened: None }
    }

    /// Follows on one member until something breaks.
    async fn once(&mut self, member: usize) -> End {
        match self.follow_on(member).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn follow_on(&mut self, member: usize) -> Result<std::convert::Infallible, End> {
        if self.position.is_none() {
            self.relist().await?;
        }
        let mut stream = self.open(member).await?;
        self.opened = Some(Instant::now());
        self.members.back();
        let mut relist = pin!(sleep(relist_in(self.doubtful)));
        loop {
            tokio::select! {
                message = stream.message() => match message {
                    Ok(Some(response)) => self.take(&response).await?,
                    Ok(None) => return Err(End::Broken("the member ended the stream".to_owned())),
                    // Too large to be taken as one answer: it would be so again.
                    Err(etcd_client::Error::GRpcStatus(status)) if status.code() == tonic::Code::OutOfRange => {
                        return Err(End::Gap(status.message().to_owned()));
                    }
                    Err(error) => return Err(End::Broken(describe(&error))),
                },
                // The stream waits meanwhile, so that nothing it tells is older than the listing.
                () = relist.as_mut() => {
                    self.doubtful = match self.relist().await {
                        Ok(Continuity::Kept) => false,
                        Ok(Continuity::Lost) => return Err(End::Broken("the store is another one or has gone back".to_owned())),
                        Err(End::Broken(cause)) => {
                            tracing::debug!(prefix = self.prefix, cause, "could not list anew, trying again");
                            true
                        }
                        Err(end) => return Err(end),
                    };
                    relist.as_mut().reset(Instant::now() + relist_in(self.doubtful));
                }
            }
        }
    }

    /// Opens the stream after what is known, and looks at its first message, which says where the store is.
    async fn open(&mut self, member: usize) -> Result<WatchStream, End> {
        let from = self.position.map_or(0, |position| position.revision.saturating_add(1));
        let (prefix, unauthorised) = (self.prefix.as_str(), self.unauthorised);
        let call = |client: Client| async move {
            if unauthorised {
                // The client renews the token of a call that was refused, not that of a stream.
                client.refresh_token().await?;
            }
            let options = WatchOptions::new().with_prefix().with_start_revision(from);
            let mut watch = client.watch_client().max_decoding_message_size(ANSWER_BYTES_MAX);
            let mut stream = watch.watch(prefix, Some(options)).await?;
            let first = stream.message().await?;
            Ok((stream, first))
        };
        let (stream, first) = match self.members.attempt(member, Lane::Watches, &call).await {
            Ok((stream, Some(first))) => (stream, first),
            Ok((_, None)) => return Err(End::Broken("the member ended the stream".to_owned())),
            Err(Fault::Unsent(cause) | Fault::Unanswered(cause)) => return Err(End::Broken(cause)),
            Err(Fault::Refused(error)) => return Err(End::Refused(error)),
        };
        self.unauthorised = false;
        self.take(&first).await?;
        Ok(stream)
    }

    /// Lists everything and tells it as a Reset.
    async fn relist(&mut self) -> Result<Continuity, End> {
        let Listed { listing, cluster } = match list(&self.members, &self.prefix).await {
            Ok(listed) => listed,
            Err(RegistryError::Unavailable { cause, .. }) => return Err(End::Broken(cause)),
            Err(error) => return Err(End::Refused(error)),
        };
        let revision = listing.revision;
        self.tell(Change::Reset(listing)).await?;
        let before = self.position.replace(Position { revision, cluster });
        let kept = before.is_none_or(|before| before.cluster == cluster && before.revision <= revision);
        Ok(if kept { Continuity::Kept } else { Continuity::Lost })
    }

    /// Tells what one message says.
    async fn take(&mut self, response: &WatchResponse) -> Result<(), End> {
        let Some(known) = self.position else {
            return Err(End::Gap("no position".to_owned()));
        };
        if let Some(header) = response.header() {
            if header.cluster_id() != known.cluster {
                return Err(End::Gap("another cluster answers".to_owned()));
            }
            // etcd would silently wait for the future to come again.
            if response.created() && header.revision() < known.revision {
                return Err(End::Gap(format!("the store is at revision {}, we at {}", header.revision(), known.revision)));
            }
        }
        if response.compact_revision() > 0 {
            return Err(End::Gap(format!("history before revision {} is compacted", response.compact_revision())));
        }
        if response.canceled() {
            self.unauthorised = response.cancel_reason().contains("auth token");
            return Err(End::Broken(response.cancel_reason().to_owned()));
        }
        let mut revision = known.revision;
        for event in response.events() {
            // Not later than a Reset that was told meanwhile: it knew. One revision is never spread over two messages.
            let Some(kv) = event.kv().filter(|kv| kv.mod_revision() > known.revision) else {
                continue;
            };
            revision = revision.max(kv.mod_revision());
            let Some(entry) = entry(kv) else { continue };
            self.tell(match event.event_type() {
                EventType::Put => Change::Put(entry),
                EventType::Delete => Change::Delete { key: entry.key, revision: entry.revision },
            })
            .await?;
        }
        self.position = Some(Position { revision, ..known });
        Ok(())
    }

    async fn tell(&self, change: Change) -> Result<(), End> {
        self.sender.send(change).await.map_err(|_| End::Closed)
    }
}

fn relist_in(soon: bool) -> Duration {
    if soon { jitter(RELIST_SOON, 0.4, 1.0) } else { jitter(RELIST_EVERY, 0.8, 1.2) }
}
