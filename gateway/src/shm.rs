//! System shared memory: regions of a client on this gateway's own host, which its requests may name instead of carrying bytes.
//!
//! A region is opened, never mapped: its bytes are read and written at offsets. One copy is needed anyway, since a client may
//! change the bytes of a tensor that has been checked already; and a client that shrinks its object gets an error, where a
//! mapping would give this process SIGBUS. The objects lie in memory, so a read or write takes as long as copying does, and is
//! done inline, on the network runtime that has the request.
//!
//! Objects are opened with this process's rights: whoever may register reaches every object under `/dev/shm` that this process
//! does. Hence off unless an operator turns it on, no symbolic links, and each tenant sees and uses only its own regions.
//!
//! Not here: CUDA shared memory (refused), the protocol's calls and the wire (`oip`, `infer`).

mod region;
mod request;

pub(crate) use request::OutputPlan;

use policy::Failure;
use proto::budget::Budget;
use region::Region;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most regions of one tenant: a few per model and direction.
const TENANT_REGIONS_MAX: usize = 128;
/// Most regions of all tenants. Each is an open file, a process may have as few as 1024, and callers may name any number of
/// tenants.
const REGIONS_MAX: usize = 256;
/// Longest name of a region, in bytes. Clients make them from tensor names.
const NAME_BYTES_MAX: usize = 256;
/// What a gateway says that was started without it.
const OFF: &str = "client shared memory is off: start with --allow-client-shm a gateway that runs on the client's host";

/// The regions that clients of one gateway have registered. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Regions(Option<Arc<Shared>>);

struct Shared {
    /// By tenant, then by region's name. No tenant without regions.
    tenants: Mutex<Tenants>,
    budget: Budget,
    request_bytes_max: u64,
}

type Tenants = HashMap<String, BTreeMap<String, Arc<Region>>>;

/// A region as its client registered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RegionStatus {
    /// The client's name for it.
    pub(crate) name: String,
    /// Name of the shared memory object.
    pub(crate) key: String,
    /// Where in the object it starts, in bytes.
    pub(crate) offset: u64,
    /// Its length.
    pub(crate) byte_size: u64,
}

impl Regions {
    /// Refuses every region.
    pub(crate) fn off() -> Self {
        Self(None)
    }

    /// Takes regions. A request's tensors, in its message and in regions together, have at most `request_bytes_max` bytes,
    /// and what is read from regions counts against `budget`.
    pub(crate) fn on(budget: Budget, request_bytes_max: u64) -> Self {
        Self(Some(Arc::new(Shared { tenants: Mutex::default(), budget, request_bytes_max })))
    }

    /// Registers `byte_size` bytes at `offset` of the object `key` as `status.name`.
    ///
    /// # Errors
    /// [`Failure::Refused`] when off, [`Failure::RegionExists`], [`Failure::Limit`] for too many regions, and
    /// [`Failure::Region`] for a name, key or range that is not allowed or an object that cannot be opened.
    pub(crate) fn register(&self, tenant: &str, status: RegionStatus) -> Result<(), Failure> {
        let shared = self.shared()?;
        let region = Region::open(status)?;
        let mut tenants = shared.tenants();
        let (of_all, of_tenant) = (tenants.values().map(BTreeMap::len).sum(), tenants.get(tenant).map_or(0, BTreeMap::len));
        let name = &region.status.name;
        if tenants.get(tenant).is_some_and(|regions| regions.contains_key(name)) {
            return Err(Failure::RegionExists { region: name.clone() });
        }
        below("shared memory regions of this tenant", of_tenant, TENANT_REGIONS_MAX)?;
        below("shared memory regions of this gateway", of_all, REGIONS_MAX)?;
        tenants.entry(tenant.to_owned()).or_default().insert(name.clone(), Arc::new(region));
        Ok(())
    }

    /// Forgets a tenant's region, or all its regions when `name` is empty. An unknown name is no error, and off is none
    /// either: clients do this before they start. Requests that use a region already finish with it.
    pub(crate) fn unregister(&self, tenant: &str, name: &str) {
        let Some(shared) = &self.0 else { return };
        let mut tenants = shared.tenants();
        let Some(regions) = tenants.get_mut(tenant) else { return };
        regions.remove(name);
        if name.is_empty() || regions.is_empty() {
            tenants.remove(tenant);
        }
    }

    /// A tenant's region, or all its regions when `name` is empty, by name. None when off.
    ///
    /// # Errors
    /// [`Failure::UnknownRegion`].
    pub(crate) fn status(&self, tenant: &str, name: &str) -> Result<Vec<RegionStatus>, Failure> {
        let Some(shared) = &self.0 else { return Ok(Vec::new()) };
        if !name.is_empty() {
            return Ok(vec![self.find(tenant, name)?.status.clone()]);
        }
        let tenants = shared.tenants();
        Ok(tenants.get(tenant).into_iter().flat_map(BTreeMap::values).map(|region| region.status.clone()).collect())
    }

    /// The tenant's region `name`.
    ///
    /// # Errors
    /// [`Failure::UnknownRegion`], and [`Failure::Refused`] when off.
    fn find(&self, tenant: &str, name: &str) -> Result<Arc<Region>, Failure> {
        let found = self.shared()?.tenants().get(tenant).and_then(|regions| regions.get(name)).cloned();
        found.ok_or_else(|| Failure::UnknownRegion { region: shown(name) })
    }

    fn shared(&self) -> Result<&Shared, Failure> {
        self.0.as_deref().ok_or_else(|| Failure::Refused { what: OFF.to_owned() })
    }
}

impl Shared {
    fn tenants(&self) -> MutexGuard<'_, Tenants> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn below(what: &str, got: usize, limit: usize) -> Result<(), Failure> {
    if got < limit {
        return Ok(());
    }
    Err(Failure::Limit { what: what.to_owned(), got: (got as u64).saturating_add(1), limit: limit as u64 })
}

/// A name repeated in a message is cut: a client's text must not fill a log.
fn shown(name: &str) -> String {
    name.chars().take(NAME_BYTES_MAX).collect()
}

#[cfg(test)]
mod tests;
