//! Which requests this gateway begins a trace for.

use super::{excerpt, wrong};
use arc_swap::ArcSwap;
use policy::Failure;
use proto::call::TraceContext;
use std::collections::{BTreeMap, HashMap};
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

/// Settings with one possible value, and why.
const FIXED: [(&str, &str, &str); 3] = [
    ("log_frequency", "0", "there is no trace file that could be begun anew"),
    ("trace_file", "", "traces go by OTLP to the address of --otlp"),
    ("trace_mode", "opentelemetry", "traces go by OTLP to the address of --otlp"),
];
const LEVEL: &str = "trace_level";
const RATE: &str = "trace_rate";
const COUNT: &str = "trace_count";
/// A `trace_count` without end.
const UNLIMITED: i32 = -1;

/// Sampling, for all models and for single ones.
///
/// A caller who sent a trace context has decided: its flag says whether the request is traced, whatever is set here, as
/// with OpenTelemetry's parent-based samplers. The settings are about requests that come without one.
pub(crate) struct TraceSettings {
    /// Without an exporter nothing is sampled, and nothing is done per request.
    exports: bool,
    state: ArcSwap<State>,
}

#[derive(Clone, Default)]
struct State {
    global: Scope,
    /// Only of models for which something is set.
    models: HashMap<String, Scope>,
}

/// What is set for all models, or for one; `None` leaves it to the wider scope, at last to the defaults.
#[derive(Clone, Default)]
struct Scope {
    on: Option<bool>,
    rate: Option<NonZeroU32>,
    /// Traces still to be begun. Shared by the states that follow each other, so that no change of another setting refills it.
    left: Option<Arc<AtomicI32>>,
    /// Requests seen since something was set in this scope.
    seen: Arc<AtomicU64>,
}

/// What holds for one model.
struct InForce<'s> {
    on: bool,
    rate: NonZeroU32,
    left: Option<&'s AtomicI32>,
    seen: &'s AtomicU64,
}

/// One setting's new value; `None` when it is cleared.
enum Change {
    Level(Option<bool>),
    Rate(Option<NonZeroU32>),
    Count(Option<i32>),
    /// A setting with one possible value was given that value.
    Nothing,
}

impl TraceSettings {
    pub(crate) fn new(exports: bool) -> Self {
        Self { exports, state: ArcSwap::default() }
    }

    /// Under which trace a request goes on: the caller's; none, and then its first span begins one; or, when it is not
    /// sampled, one whose flag keeps everyone from recording it, this gateway ([`proto::trace::span`]) and the worker.
    pub(crate) fn context(&self, model: &str, incoming: Option<TraceContext>) -> Option<TraceContext> {
        if !self.exports || incoming.is_some() || self.begins(model) {
            return incoming;
        }
        Some(proto::trace::not_sampled(fastrand::u128(..), fastrand::u64(..)))
    }

    /// Is a trace begun for this request? The first of every `trace_rate` is, while it is on and some are left.
    fn begins(&self, model: &str) -> bool {
        let state = self.state.load();
        let InForce { on, rate, left, seen } = self.in_force(&state, model);
        on && seen.fetch_add(1, Ordering::Relaxed) % NonZeroU64::from(rate) == 0 && left.is_none_or(take)
    }

    fn in_force<'s>(&self, state: &'s State, model: &str) -> InForce<'s> {
        let global = &state.global;
        let scope = state.models.get(model).unwrap_or(global);
        InForce {
            on: scope.on.or(global.on).unwrap_or(self.exports),
            rate: scope.rate.or(global.rate).unwrap_or(NonZeroU32::MIN),
            left: scope.left.as_deref().or(global.left.as_deref()),
            seen: &scope.seen,
        }
    }

    /// Makes `changes` for `model`, or for all models when it is empty. A setting without values is cleared.
    pub(crate) fn update(&self, model: &str, changes: &BTreeMap<String, Vec<String>>) -> Result<(), Failure> {
        let changes: Vec<Change> = changes.iter().map(|(name, values)| self.change(name, values)).collect::<Result<_, _>>()?;
        if changes.is_empty() {
            return Ok(());
        }
        self.state.rcu(|state| {
            let mut state = State::clone(state);
            let mut scope =
                if model.is_empty() { std::mem::take(&mut state.global) } else { state.models.remove(model).unwrap_or_default() };
            scope.seen = Arc::default(); // so that the next request is the first of its kind
            for change in &changes {
                match change {
                    Change::Level(on) => scope.on = *on,
                    Change::Rate(rate) => scope.rate = *rate,
                    Change::Count(count) => scope.left = count.map(|n| Arc::new(AtomicI32::new(n))),
                    Change::Nothing => {}
                }
            }
            if model.is_empty() {
                state.global = scope;
            } else if scope.on.is_some() || scope.rate.is_some() || scope.left.is_some() {
                state.models.insert(model.to_owned(), scope);
            }
            state
        });
        Ok(())
    }

    fn change(&self, name: &str, values: &[String]) -> Result<Change, Failure> {
        if let Some((_, only, why)) = FIXED.iter().find(|(fixed, ..)| *fixed == name) {
            return match one(name, values)? {
                None => Ok(Change::Nothing),
                Some(value) if value == *only => Ok(Change::Nothing),
                Some(value) => Err(wrong(name, format!("it can only be {only:?}, got {:?}: {why}", excerpt(value)))),
            };
        }
        match name {
            LEVEL => self.level(values).map(Change::Level),
            RATE => number(name, values, "a whole number from 1: one request of so many is traced").map(Change::Rate),
            COUNT => {
                let expected = "-1 (no limit) or the number of traces still to be begun";
                match number(name, values, expected)? {
                    Some(count) if count < UNLIMITED => Err(wrong(name, format!("expected {expected}, got {count}"))),
                    count => Ok(Change::Count(count)),
                }
            }
            _ => {
                let known = FIXED.iter().map(|(fixed, ..)| *fixed).chain([COUNT, LEVEL, RATE]).collect::<Vec<_>>().join(", ");
                Err(wrong(name, format!("it is not a trace setting; those are {known}")))
            }
        }
    }

    fn level(&self, values: &[String]) -> Result<Option<bool>, Failure> {
        match values {
            [] => Ok(None),
            [off] if off == "OFF" => Ok(Some(false)),
            all if all.iter().any(|level| level == "TENSORS") => {
                Err(wrong(LEVEL, "TENSORS is not supported: bytes of tensors never go into a trace".to_owned()))
            }
            all if all.iter().any(|level| level != "TIMESTAMPS") => {
                Err(wrong(LEVEL, format!("expected OFF or TIMESTAMPS, got {:?}", excerpt(&all.join(",")))))
            }
            _ if !self.exports => {
                Err(wrong(LEVEL, "TIMESTAMPS needs somewhere to send traces to: start the gateway with --otlp URL".to_owned()))
            }
            _ => Ok(Some(true)),
        }
    }

    /// Every setting that holds for `model`, or for all models when it is empty.
    pub(crate) fn shown(&self, model: &str) -> BTreeMap<String, Vec<String>> {
        let state = self.state.load();
        let InForce { on, rate, left, .. } = self.in_force(&state, model);
        let count = left.map_or(UNLIMITED, |left| left.load(Ordering::Relaxed));
        let level = if on { "TIMESTAMPS" } else { "OFF" };
        let values = [(LEVEL, level.to_owned()), (RATE, rate.to_string()), (COUNT, count.to_string())];
        let fixed = FIXED.iter().map(|(name, only, _)| (*name, (*only).to_owned()));
        fixed.chain(values).map(|(name, value)| (name.to_owned(), vec![value])).collect()
    }
}

/// Takes one of the traces that are left; false when there is none.
fn take(left: &AtomicI32) -> bool {
    let next = |n: i32| match n {
        0 => None,
        UNLIMITED => Some(UNLIMITED),
        n => n.checked_sub(1),
    };
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
}

/// The value of a setting that takes one; `None` when it is cleared.
fn one<'v>(name: &str, values: &'v [String]) -> Result<Option<&'v str>, Failure> {
    match values {
        [] => Ok(None),
        [value] => Ok(Some(value)),
        more => Err(wrong(name, format!("expected one value, got {}", more.len()))),
    }
}

fn number<N: std::str::FromStr>(name: &str, values: &[String], expected: &str) -> Result<Option<N>, Failure> {
    let parse = |text: &str| text.parse().map_err(|_| wrong(name, format!("expected {expected}, got {:?}", excerpt(text))));
    one(name, values)?.map(parse).transpose()
}
