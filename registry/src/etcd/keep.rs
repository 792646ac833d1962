//! Keeping a lease alive.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::Client;
use tokio::time::{Instant, sleep, timeout_at};

use super::members::{Members, Repeat};
use crate::backoff::jitter;
use crate::lease::Keeper;
use crate::{LeaseId, RegistryError};

/// Renewals in one ttl: four may fail before the lease is in danger.
const RENEWALS: u32 = 5;
/// The pause after a renewal that no member answered.
const RETRY: Duration = Duration::from_millis(500);

/// Renews lease `id` until its handle is dropped or revoked, the store says it is gone, or `ttl` has passed since the last
/// renewal that worked, which began no later than the store's own count.
pub(super) async fn keep(members: Arc<Members>, id: LeaseId, ttl: Duration, granted: Instant, mut keeper: Keeper) {
    let usual = ttl.checked_div(RENEWALS).unwrap_or(ttl);
    let mut renewed = granted;
    let mut pause = usual;
    loop {
        let renewal = async {
            sleep(pause).await;
            (Instant::now(), renew(&members, id).await)
        };
        let outcome = tokio::select! {
            asked = keeper.asked() => {
                if let Some(answer) = asked {
                    let _ = answer.send(revoke(&members, id).await); // the holder may have stopped waiting
                }
                return;
            }
            outcome = timeout_at(renewed + ttl, renewal) => outcome,
        };
        match outcome {
            Ok((began, Ok(()))) => (renewed, pause) = (began, usual),
            Ok((_, Err(RegistryError::LeaseGone { .. }))) => {
                tracing::warn!(lease = id.0, "the registry has ended a lease we hold");
                return keeper.lose();
            }
            Ok((_, Err(error))) => {
                tracing::debug!(lease = id.0, %error, "could not renew a lease, trying again");
                pause = jitter(RETRY.min(usual), 0.5, 1.0);
            }
            Err(_) => {
                tracing::warn!(lease = id.0, ttl_s = ttl.as_secs(), "could not renew a lease in its time");
                return keeper.lose();
            }
        }
    }
}

/// One renewal, on as many members as it takes. A stream of its own: one that hangs on a frozen member must not hold up the next.
async fn renew(members: &Members, id: LeaseId) -> Result<(), RegistryError> {
    let call = |client: Client| async move { client.lease_client().keep_alive(id.0).await.map(drop) };
    members.call(Repeat::Safe, call).await
}

/// Ends the lease; that it is gone already is as good.
async fn revoke(members: &Members, id: LeaseId) -> Result<(), RegistryError> {
    let call = |client: Client| async move { client.lease_client().revoke(id.0).await.map(drop) };
    match members.call(Repeat::Safe, call).await {
        Err(RegistryError::LeaseGone { .. }) => Ok(()),
        other => other,
    }
}
