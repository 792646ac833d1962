//! A model of which one version or variant is to take over from another: who answers a request that names neither, and what is counted of
//! both. `policy::rollout` decides; the leader writes down how far it is.

use crate::asked::Asked;
use crate::infer::Context;
use crate::shadow::Shadow;
use crate::shard::Shard;
use crate::table::{Model, ModelVersion, Replica};
use policy::rollout::{Burn, Candidate, Counts, Likeness, Pairs, Side, split};
use policy::{Code, Counted, Envelope, Failure, ModelRecord, Moment, Phase, RolloutRecord, Version};
use proto::call::{InferReply, Tensors};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A rollout as a table knows it.
pub(crate) struct Rolling {
    pub(crate) record: RolloutRecord,
    pub(crate) phase: Phase,
    /// When two answers agree.
    pub(crate) likeness: Likeness,
    /// Outlives the table it was first in, as long as it is the same rollout.
    tally: Arc<Mutex<Tally>>,
}

/// What is counted.
struct Tally {
    counts: Counts,
    burn: Burn,
}

impl Rolling {
    /// What `asked` wants to be rolled out, and how far that is; none where it wants nothing.
    pub(crate) fn of(
        asked: &ModelRecord,
        record: Option<RolloutRecord>,
        versions: &BTreeMap<Version, Arc<ModelVersion>>,
        before: Option<&Arc<Rolling>>,
    ) -> Option<Self> {
        let rollout = asked.rollout.as_ref()?;
        let unseen = || RolloutRecord::new(asked.name.clone(), 0, rollout.clone());
        let record = record.filter(|record| rollout.is(&record.rollout)).unwrap_or_else(unseen);
        let same = before.filter(|before| before.record.id == record.id);
        let tally = same.map(|before| before.tally.clone());
        let tally = tally.unwrap_or_else(|| Arc::new(Mutex::new(Tally { counts: Counts::default(), burn: Burn::new(rollout.step_s) })));
        let (phase, likeness) = (record.phase(), likeness(asked, &record, versions));
        let rolling = Self { record, phase, likeness, tally };
        rolling.tally().begin(rolling.record.progress.look);
        Some(rolling)
    }

    /// Is a request given to a side here? Not one that names a version or a variant.
    pub(crate) fn splits(&self, envelope: &Envelope, context: &Context) -> bool {
        let chooses = match (self.phase, &self.record.rollout.candidate) {
            (Phase::Runs, _) | (Phase::Promoted, Candidate::Variant(_)) => true,
            (Phase::Promoted | Phase::Waits | Phase::RolledBack, _) => false,
        };
        chooses && envelope.version.is_empty() && !context.asked.pin(envelope)
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was counted until `now`; none where there is nothing to decide.
    pub(crate) fn counted(&self, now: Moment) -> Option<Counted> {
        let tally = self.tally();
        let counts = Counts { latency: tally.burn.counts(now), ..tally.counts };
        (self.phase == Phase::Runs).then_some(Counted { rollout: self.record.id, counts })
    }

    /// Two answers were compared, row by row.
    pub(crate) fn compared(&self, pairs: Pairs) {
        self.tally().counts.pairs.add(pairs);
    }

    /// A copy was not compared.
    pub(crate) fn skipped(&self) {
        let counts = &mut self.tally().counts;
        counts.skipped = counts.skipped.saturating_add(1);
    }

    fn observe(&self, now: Moment, side: Side, late: bool) {
        if self.phase == Phase::Runs {
            self.tally().burn.observe(now, side, late);
        }
    }
}

impl Tally {
    /// Pairs count for the look that the leader named last.
    fn begin(&mut self, look: u32) {
        if self.counts.look != look {
            self.counts = Counts { look, ..Counts::default() };
        }
    }
}

impl Model {
    /// The version that answers for a side, if it is ready.
    pub(crate) fn of_side(&self, rolling: &Rolling, side: Side) -> Option<&Arc<ModelVersion>> {
        let ready = |number: Version| self.versions.get(&number).filter(|v| v.is_ready());
        let baseline = || rolling.record.baseline.filter(|_| rolling.phase != Phase::Promoted).and_then(ready);
        let highest = |but: Option<Version>| self.versions.values().rev().find(|v| v.is_ready() && Some(v.record.version) != but);
        match (&rolling.record.rollout.candidate, side) {
            (Candidate::Version(number), Side::Candidate) => ready(*number),
            (Candidate::Version(number), Side::Baseline) => baseline().or_else(|| highest(Some(*number))),
            (Candidate::Variant(_), _) => baseline().or_else(|| highest(None)),
        }
    }
}

/// By what the candidate's card was measured by, else what the floor counts, else what other variants were, else what outputs look like.
fn likeness(asked: &ModelRecord, record: &RolloutRecord, versions: &BTreeMap<Version, Arc<ModelVersion>>) -> Likeness {
    let number = match &record.rollout.candidate {
        Candidate::Version(version) => Some(*version),
        Candidate::Variant(_) => record.baseline,
    };
    let version = number.and_then(|number| versions.get(&number));
    let variants = || version.into_iter().flat_map(|version| &version.record.variants);
    let card = match &record.rollout.candidate {
        Candidate::Variant(name) => variants().find(|variant| variant.name == *name).map(|variant| variant.metric),
        Candidate::Version(_) => None,
    };
    let metric = record.rollout.metric.or(card).or(asked.slo.accuracy_metric).or_else(|| variants().next().map(|v| v.metric));
    let labelled = version.is_some_and(|version| !version.record.labels.is_empty());
    let output = version.and_then(|version| version.signature().outputs.first()).map(|spec| spec.name.as_str());
    Likeness::of(metric, record.rollout.cosine_min, labelled, output)
}

/// The side of a rollout that is to answer a request.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) rolling: Arc<Rolling>,
    pub(crate) side: Side,
    /// Its answer is only compared.
    pub(crate) is_copy: bool,
}

impl Part {
    /// Is this replica of the side? What a variant is compared with is the reference, since its card says how far it is from that.
    pub(crate) fn allows(&self, replica: &Replica) -> bool {
        match (&self.rolling.record.rollout.candidate, self.side) {
            (Candidate::Version(_), _) => true,
            (Candidate::Variant(name), Side::Candidate) => replica.variant.name == *name,
            (Candidate::Variant(name), Side::Baseline) => replica.variant.name != *name && (!self.is_copy || replica.is_reference()),
        }
    }

    /// Fails where none of the side's replicas is good enough for who asks: that is not for lack of them.
    pub(crate) fn can_answer(&self, version: &ModelVersion, asked: &Asked, envelope: &Envelope) -> Result<(), Failure> {
        let (mut there, mut good) = (false, false);
        for replica in version.replicas.iter().filter(|replica| self.allows(replica)) {
            (there, good) = (true, good || asked.allows(replica));
        }
        if there && !good { Err(asked.unmet(version, envelope)) } else { Ok(()) }
    }

    /// Is anything of the side there to be asked?
    fn is_there(&self, version: &ModelVersion) -> bool {
        version.replicas.iter().any(|replica| replica.is_offered && self.allows(replica))
    }
}

/// Counts what becomes of a request at a side; one whose caller went away after the latency target too.
pub(crate) struct Watch<'w> {
    shard: &'w Shard,
    rolling: &'w Rolling,
    side: Side,
    target_us: Option<f64>,
    started: Instant,
    ended: bool,
}

impl<'w> Watch<'w> {
    pub(crate) fn begin(shard: &'w Shard, rolling: &'w Rolling, side: Side, version: &ModelVersion) -> Self {
        Self { shard, rolling, side, target_us: version.latency_target_us, started: Instant::now(), ended: false }
    }

    fn is_late(&self) -> bool {
        self.target_us.is_some_and(|target_us| self.started.elapsed().as_secs_f64() * 1e6 > target_us)
    }

    pub(crate) fn ended<T>(mut self, outcome: &Result<T, Failure>) {
        self.ended = true;
        match outcome {
            Err(failure) if is_callers(failure) => {}
            outcome => self.rolling.observe(self.shard.core.now(), self.side, outcome.is_err() || self.is_late()),
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if !self.ended && self.is_late() {
            self.rolling.observe(self.shard.core.now(), self.side, true);
        }
    }
}

/// Is it the caller's doing, so that it says nothing of who was asked?
fn is_callers(failure: &Failure) -> bool {
    let code = failure.wire().0;
    let callers = matches!(code, Code::InvalidArgument | Code::NotFound | Code::ResourceExhausted | Code::Cancelled | Code::Unimplemented);
    callers || matches!(failure, Failure::Floor { .. })
}

/// Was it found before anything was sent, so that the other side may be asked?
fn is_unsent(failure: &Failure) -> bool {
    matches!(
        failure,
        Failure::NoReplica { .. }
            | Failure::NotReady { .. }
            | Failure::Busy { .. }
            | Failure::Hopeless { .. }
            | Failure::Floor { .. }
            | Failure::InputCount { .. }
            | Failure::UnknownInput { .. }
            | Failure::MissingInput { .. }
            | Failure::UnknownOutput { .. }
            | Failure::Datatype { .. }
            | Failure::ShapeMismatch { .. }
            | Failure::BatchTooLarge { .. }
    )
}

impl Shard {
    /// Answers a request that names neither version nor variant, by a draw; where the side drawn cannot, by the other, which is counted
    /// against the first.
    pub(crate) async fn answer_rolling(
        &self,
        model: &Model,
        rolling: &Arc<Rolling>,
        envelope: Envelope,
        raw: Tensors,
        context: Context,
    ) -> Result<InferReply, Failure> {
        let copy = self.take_copy(rolling, &envelope, &raw, &context);
        let mut side = split(fastrand::f64(), rolling.record.weight);
        if !self.is_there(model, rolling, side) && self.is_there(model, rolling, side.other()) {
            rolling.observe(self.core.now(), side, true);
            side = side.other();
        }
        let again = matches!(raw, Tensors::Here(_)).then(|| (envelope.clone(), raw.clone()));
        let keeps = copy.is_some();
        let first = self.answer_side(model, rolling, side, envelope, raw, (context.clone(), keeps)).await;
        match (first, again) {
            (Err(failure), Some((envelope, raw))) if is_unsent(&failure) => {
                copy.into_iter().for_each(Shadow::skip);
                match self.answer_side(model, rolling, side.other(), envelope, raw, (context, false)).await {
                    Ok((reply, _)) => {
                        // What one side takes and the other does not is no mistake of the caller.
                        if is_callers(&failure) && !matches!(failure, Failure::Floor { .. }) {
                            rolling.observe(self.core.now(), side, true);
                        }
                        Ok(reply)
                    }
                    Err(other) => Err(if side == Side::Baseline { failure } else { other }),
                }
            }
            (first, _) => {
                let outcome = first.as_ref().map(|(_, plain)| plain.clone()).map_err(Clone::clone);
                copy.into_iter().for_each(|copy| self.send_copy(model, copy, side, outcome.clone()));
                first.map(|(reply, _)| reply)
            }
        }
    }

    fn is_there(&self, model: &Model, rolling: &Arc<Rolling>, side: Side) -> bool {
        let part = Part { rolling: rolling.clone(), side, is_copy: false };
        model.of_side(rolling, side).is_some_and(|version| part.is_there(version))
    }

    /// The answer of a side, and the model's own before it became what was wished for, where the caller `keeps` that.
    async fn answer_side(
        &self,
        model: &Model,
        rolling: &Arc<Rolling>,
        side: Side,
        envelope: Envelope,
        raw: Tensors,
        (context, keeps): (Context, bool),
    ) -> Result<(InferReply, Option<InferReply>), Failure> {
        let Some(version) = model.of_side(rolling, side) else {
            return model.resolve(&envelope.model, "").and(Err(Failure::NoReplica { model: envelope.model.clone(), retry_ms: RETRY_MS }));
        };
        let context = Context { part: Some(Part { rolling: rolling.clone(), side, is_copy: false }), ..context };
        let (watch, started) = (Watch::begin(self, rolling, side, version), Instant::now());
        let outcome = match self.answer_plain(version, envelope, raw, context).await {
            Ok((mut reply, wishes)) => {
                let plain = keeps.then(|| reply.clone());
                wishes.fulfil(version, &mut reply).map(|()| (reply, plain))
            }
            Err(failure) => Err(failure),
        };
        watch.ended(&outcome);
        version.metrics.answered(started.elapsed(), outcome.is_ok());
        outcome
    }
}

/// Told to a client of a side that is not there: about a reconnect.
const RETRY_MS: u32 = 200;

#[cfg(test)]
pub(crate) mod tests;
