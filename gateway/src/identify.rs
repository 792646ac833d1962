//! Who asks, before any body byte is read.

use http::HeaderMap;
use proto::call::Caller;
use proto::metadata;
use std::sync::Arc;

/// The caller of a request. Today: tenant `default`, or the `sluice-tenant` header where the listener is trusted.
pub(crate) fn identify(trust_tenant: bool, default: &Arc<str>, headers: &HeaderMap) -> Caller {
    let named = if trust_tenant { metadata::text(headers, metadata::TENANT) } else { None };
    Caller { tenant: named.map_or_else(|| default.clone(), Arc::from) }
}
