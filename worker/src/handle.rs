//! The worker as an upstream: in this process a gateway calls it directly, across the network through the data port.

use crate::lane::Lane;
use crate::offer::Offers;
use crate::replica::Replica;
use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use policy::{Failure, VariantId, Version};
use proto::call::{InferCall, Offer, ReplicaStatistics, Replies, Upstream};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The replicas that can be asked now. Cheap to clone.
#[derive(Clone, Default)]
pub struct WorkerHandle(Arc<Inner>);

#[derive(Default)]
struct Inner {
    replicas: ArcSwap<HashMap<VariantId, Arc<Replica>>>,
    /// Held by who changes the map, so that no change is lost; who reads it takes no lock.
    changing: Mutex<()>,
    stopped: AtomicBool,
    /// Where a model is looked at anew.
    offers: Option<Arc<Offers>>,
}

impl WorkerHandle {
    /// No replica yet.
    pub(crate) fn new(offers: Arc<Offers>) -> Self {
        Self(Arc::new(Inner { offers: Some(offers), ..Inner::default() }))
    }

    /// Makes `replica` the one that answers for `variant`; gives the one it replaces.
    pub(crate) fn insert(&self, variant: VariantId, replica: Arc<Replica>) -> Option<Arc<Replica>> {
        self.change(|map| map.insert(variant, replica))
    }

    /// Takes `variant` out.
    pub(crate) fn remove(&self, variant: &VariantId) -> Option<Arc<Replica>> {
        self.change(|map| map.remove(variant))
    }

    /// Takes `variant` out if it is still `replica`; a successor stays.
    pub(crate) fn remove_if(&self, variant: &VariantId, replica: &Arc<Replica>) {
        self.change(|map| {
            if map.get(variant).is_some_and(|r| Arc::ptr_eq(r, replica)) {
                map.remove(variant);
            }
        });
    }

    fn change<T>(&self, change: impl FnOnce(&mut HashMap<VariantId, Arc<Replica>>) -> T) -> T {
        let _changing = self.0.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut map = HashMap::clone(&self.0.replicas.load());
        let result = change(&mut map);
        self.0.replicas.store(Arc::new(map));
        result
    }

    /// All replicas.
    pub(crate) fn all(&self) -> Vec<Arc<Replica>> {
        self.0.replicas.load().values().cloned().collect()
    }

    /// The replica of `variant`.
    pub(crate) fn replica(&self, variant: &VariantId) -> Result<Arc<Replica>, Failure> {
        self.0.replicas.load().get(variant).cloned().ok_or_else(|| Failure::NotReady {
            model: variant.model.to_string(),
            version: variant.version.to_string(),
            reason: format!("this worker has no replica of {variant}"),
        })
    }

    /// From now on it is not reachable.
    pub(crate) fn stop(&self) {
        self.0.stopped.store(true, Ordering::Release);
    }
}

/// A worker as one network runtime of the same process sees it.
#[derive(Clone)]
pub struct LocalWorker {
    pub(crate) handle: WorkerHandle,
    pub(crate) lane: Lane,
}

impl WorkerHandle {
    /// The way to it from the runtime that this is called on.
    pub fn local(&self) -> LocalWorker {
        LocalWorker { handle: self.clone(), lane: Lane::start() }
    }
}

impl Upstream for LocalWorker {
    fn infer(&self, call: InferCall) -> Replies {
        let (replica, lane) = (self.handle.replica(&call.variant), self.lane.clone());
        Replies::one(async move { replica?.infer(call, &lane).await })
    }

    fn reachable(&self) -> bool {
        !self.handle.0.stopped.load(Ordering::Acquire)
    }

    fn statistics(&self) -> BoxFuture<'static, Result<Vec<ReplicaStatistics>, Failure>> {
        let counted = self.handle.all().iter().map(|replica| replica.counted()).collect();
        Box::pin(std::future::ready(Ok(counted)))
    }

    fn offer(&self, offer: Offer) -> BoxFuture<'static, Result<Vec<Version>, Failure>> {
        let offers = self.handle.0.offers.clone();
        Box::pin(async move {
            match offers {
                Some(offers) => offers.anew(offer).await,
                None => Ok(Vec::new()),
            }
        })
    }
}
