//! The evidence of a rollout, from exact probabilities: errors, votes, retries, quality flags, latency.
//!
//! Each request is routed by a hash or a draw that is compared with a known weight. So if the arms are equal, the
//! probability that an event is on the canary is known exactly ([`door`]), whatever the base rate is and however one
//! session or party behaves. Every kind of event is tested in this way ([`signal`], [`timing`], [`reading`]). A
//! decision must also hold without its most influential party ([`parties`]).
//!
//! This file sorts outcomes into kinds of events and says which of them can roll back; `gates` turns the evidence into
//! gates. All it knows about a stage is its weight.

mod bets;
mod door;
pub(crate) mod gates;
mod parties;
mod quantile;
mod reading;
mod signal;
mod timing;

use std::time::Duration;

use self::door::{Door, WhenFull};
use self::parties::Parties;
use self::reading::Readings;
use self::signal::{Finding, Signal};
use self::timing::{Sample, Timing, stratum};
pub(crate) use signal::Draw;

use super::full_weight::FullWeightTest;
use super::keys::{SlotCounts, slot};
use super::quality::Flag;
use super::{
    Arm, Class, Counts, EvidenceRule, GateName, Outcome, Policy, Reading, SignalAction, Weight,
};

/// Samples with a matched step, on each arm, from which on only those count.
const MATCHED: u64 = 30;

/// All evidence of one rollout.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Exact {
    parties: Parties,
    errors: Signal,
    votes: Signal,
    retries: Signal,
    flags: [Signal; Flag::ALL.len()],
    /// Of TTFTs and times per token.
    times: Door<2>,
    ttft: Timing,
    tpot: Timing,
    readings: Readings,
    /// Counted requests and errors over the rollout, by [`Arm::index`].
    requests: [u64; 2],
    failed: [u64; 2],
    /// Replies over the rollout with each flag, by [`Arm::index`].
    flagged: [[u64; 2]; Flag::ALL.len()],
    /// Samples of this stage, and those with a matched step, by [`Arm::index`].
    timed: [u64; 2],
    matched: [u64; 2],
    limits: Limits,
    /// Only while all traffic goes to the canary.
    full_weight: Option<FullWeightTest>,
    seen: SlotCounts,
    /// The restart that the full-weight test begins with.
    stages: u32,
}

/// Where a request or a reply was counted, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment<'a> {
    pub(crate) now: Duration,
    pub(crate) policy: &'a Policy,
    /// The weight of the stage that the request was routed in.
    pub(crate) weight: Weight,
    /// Whether that is the current stage.
    pub(crate) current: bool,
}

/// Why the canary must be rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Regression {
    /// Its errors next to stable's.
    Errors,
    /// Its errors at full weight, where there is no stable to compare with.
    FullWeightTest,
    /// A quality flag.
    Flag(Flag),
    /// What both models have read.
    Reading,
}

impl Exact {
    pub(crate) fn new(policy: &Policy) -> Exact {
        Exact {
            parties: Parties::new(),
            errors: Signal::new(),
            votes: Signal::new(),
            retries: Signal::new(),
            flags: std::array::from_fn(|_| Signal::new()),
            times: Door::new(WhenFull::Forget),
            ttft: Timing::new(policy.max_latency_ratio, policy.ttft_floor),
            tpot: Timing::new(policy.max_latency_ratio, Duration::ZERO),
            readings: Readings::new(&policy.cross_read),
            requests: [0; 2],
            failed: [0; 2],
            flagged: [[0; 2]; Flag::ALL.len()],
            timed: [0; 2],
            matched: [0; 2],
            limits: Limits::of(policy),
            full_weight: None,
            seen: SlotCounts::new(),
            stages: 0,
        }
    }

    /// A stage begins. `reference`: stable's counts from below, if all traffic goes to the canary now.
    pub(crate) fn begin_stage(
        &mut self,
        now: Duration,
        policy: &Policy,
        reference: Option<&Counts>,
    ) {
        let fixed = [&mut self.errors, &mut self.votes, &mut self.retries];
        fixed.into_iter().chain(&mut self.flags).for_each(|signal| signal.begin(now));
        self.ttft.begin(now);
        self.tpot.begin(now);
        self.readings.begin(now);
        (self.timed, self.matched) = ([0; 2], [0; 2]);
        self.stages = self.stages.saturating_add(1);
        let stages = self.stages;
        self.full_weight = reference.filter(|counts| counts.requests > 0).map(|counts| {
            let reference = (counts.errors, counts.requests);
            let mut test = FullWeightTest::new(reference, policy.alone_allowance);
            test.restart(stages);
            test
        });
    }

    /// A judged outcome. `cold`: the canary has not warmed up yet, so times say nothing.
    pub(crate) fn observe(&mut self, at: &Moment<'_>, outcome: &Outcome, cold: bool) {
        let draw = Draw::of(outcome.arm, &outcome.origin, at.weight);
        let (arm, bake) = (outcome.arm.index(), at.policy.bake);
        if outcome.class.counts() || outcome.class == Class::ClientCancel {
            self.parties.count(outcome.origin.party);
        }
        if outcome.class.counts() {
            self.requests[arm] += 1;
            self.seen.count(outcome.origin.party);
        }
        let error = outcome.class.is_error();
        if error {
            self.failed[arm] += 1;
            self.errors.observe(at.now, bake, &draw);
        }
        if let Some(test) = &mut self.full_weight
            && at.current
            && outcome.arm == Arm::Canary
            && outcome.class.counts()
        {
            test.observe(error, outcome.origin.party.map(slot));
        }
        for flag in outcome.flags.iter() {
            self.flagged[flag as usize][arm] += 1;
            self.flags[flag as usize].observe(at.now, bake, &draw);
        }
        if !cold && at.current {
            self.time(at, outcome, &draw);
        }
    }

    /// The times of a reply, if they can be compared with others.
    fn time(&mut self, at: &Moment<'_>, outcome: &Outcome, draw: &Draw) {
        let arm = outcome.arm.index();
        let by_matched = self.by_matched();
        if outcome.ttft.is_some() {
            self.timed[arm] += 1;
            self.matched[arm] += u64::from(outcome.matched);
        }
        if by_matched && !outcome.matched && !outcome.censored {
            return;
        }
        let bake = at.policy.bake;
        let kind = by_matched || outcome.matched;
        let has = [outcome.ttft.is_some(), outcome.tpot.is_some()];
        let [of_ttft, of_tpot] = self.times.count_each(draw.cluster, draw.w, draw.arm, has);
        if let (Some(time), Some(p)) = (outcome.ttft, of_ttft) {
            let work = outcome.prompt_tokens.saturating_sub(outcome.cached_tokens);
            let censored = outcome.censored;
            let sample = Sample { time, censored, stratum: stratum(work, kind, outcome.crowd) };
            self.ttft.observe(at.now, bake, (draw, p), sample);
        }
        if let (Some(time), Some(p)) = (outcome.tpot, of_tpot) {
            let stratum = stratum(outcome.prompt_tokens, kind, 0);
            let sample = Sample { time, censored: false, stratum };
            self.tpot.observe(at.now, bake, (draw, p), sample);
        }
    }

    /// Whether only replies with a matched step are compared: both arms have some of them, or most of the
    /// canary's replies have one. With too little traffic for both arms to run at once, each runs alone, and all
    /// replies can be compared.
    fn by_matched(&self) -> bool {
        let [stable, canary] = self.matched;
        stable.min(canary) >= MATCHED || (canary >= 10 && 2 * canary > self.timed[1])
    }

    /// Whether others than this party are active.
    pub(crate) fn can_do_without(&self, party: u64) -> bool {
        self.parties.can_do_without(slot(party))
    }

    /// A thumbs down.
    pub(crate) fn vote(&mut self, at: &Moment<'_>, draw: &Draw) {
        self.votes.observe(at.now, at.policy.bake, draw);
    }

    /// A regenerated answer; it is charged to the arm of the earlier one.
    pub(crate) fn retry(&mut self, at: &Moment<'_>, draw: &Draw) {
        self.retries.observe(at.now, at.policy.bake, draw);
    }

    /// A reply that both models have read.
    pub(crate) fn read(&mut self, draw: &Draw, reading: &Reading) {
        self.readings.observe(draw, reading);
    }

    /// Whether the canary must be rolled back now, and why.
    pub(crate) fn regression(&self, policy: &Policy) -> Option<Regression> {
        let limits = &self.limits;
        let compared = self.requests[Arm::Stable.index()] > 0;
        let proved = |signal: &Signal, limit: f64| {
            compared
                && signal.log_e() >= limit
                && signal.finding(limit, &self.parties) == Finding::Proved
                && signal.ratio_of_evidence().reaches(policy.max_error_ratio)
        };
        if proved(&self.errors, limits.errors) {
            return Some(Regression::Errors);
        }
        let flag = Flag::ALL.into_iter().find(|flag| {
            policy.quality.action(*flag) == SignalAction::Rollback
                && proved(&self.flags[*flag as usize], limits.flags)
        });
        if let Some(flag) = flag {
            return Some(Regression::Flag(flag));
        }
        if policy.cross_read.action == SignalAction::Rollback
            && self.readings.finding(limits.readings, &self.parties) == Finding::Proved
        {
            return Some(Regression::Reading);
        }
        let test = self.full_weight.as_ref().filter(|test| test.log_e() >= limits.errors)?;
        (test.log_e_without_any(&self.seen, policy) >= limits.errors)
            .then_some(Regression::FullWeightTest)
    }

    /// Gates that are only reported and whose evidence reaches the limit.
    pub(crate) fn notices(&self, policy: &Policy) -> impl Iterator<Item = GateName> {
        let limit = policy.log_limit();
        let reads = policy.cross_read.action == SignalAction::Notify;
        let read = (reads && self.readings.log_e() >= limit).then_some(GateName::CrossRead);
        let reached = |flag: &Flag| {
            policy.quality.action(*flag) == SignalAction::Notify
                && self.flags[*flag as usize].log_e() >= limit
        };
        let flags = Flag::ALL.into_iter().filter(reached).map(GateName::Quality);
        flags.chain(read).collect::<Vec<_>>().into_iter()
    }
}

/// The e-values that are needed, as logarithms. The signals that roll back share alpha: errors have [`OF_ERRORS`] of
/// it, the others the rest. The gates that hold share another alpha equally, but for those of latency: a canary as
/// fast as stable is well within what they allow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Limits {
    pub(crate) errors: f64,
    /// Each quality flag that rolls back.
    pub(crate) flags: f64,
    /// Each gate of latency.
    pub(crate) latency: f64,
    /// What both models read.
    pub(crate) readings: f64,
    /// Each other gate that holds.
    pub(crate) holds: f64,
    /// Each flag that is only reported.
    pub(crate) notices: f64,
}

/// The share of alpha that errors have while there are quality flags that roll back. Flags are found soon in any case.
const OF_ERRORS: f64 = 0.8;
/// Feedback and retries.
const USER_GATES: usize = 2;

impl Limits {
    pub(crate) fn of(policy: &Policy) -> Limits {
        let with =
            |action| Flag::ALL.iter().filter(|f| policy.quality.action(**f) == action).count();
        let (rollback, hold) = (with(SignalAction::Rollback), with(SignalAction::Hold));
        let shared = |among: usize| policy.log_limit() + (among.max(1) as f64).ln();
        let reads = policy.reads() && policy.cross_read.action == SignalAction::Rollback;
        let rollback = rollback + usize::from(reads);
        let errors = if rollback > 0 { OF_ERRORS } else { 1.0 };
        Limits {
            errors: policy.log_limit() - errors.ln(),
            flags: shared(rollback) - (1.0 - OF_ERRORS).ln(),
            latency: policy.log_limit(),
            readings: match reads {
                true => shared(rollback) - (1.0 - OF_ERRORS).ln(),
                false => policy.log_limit(),
            },
            holds: shared(USER_GATES + hold),
            notices: policy.log_limit(),
        }
    }
}

impl Policy {
    /// The e-value at which a gate acts; `None` for gates without one.
    pub fn evidence_limit(&self, gate: GateName) -> Option<f64> {
        if self.evidence == EvidenceRule::None {
            return None;
        }
        let limits = Limits::of(self);
        let exactly = self.evidence == EvidenceRule::Exact;
        let log_limit = match gate {
            GateName::Bake | GateName::Requests => return None,
            _ if !exactly => self.log_limit(),
            GateName::Errors => limits.errors,
            GateName::Ttft | GateName::Tpot | GateName::Throughput => limits.latency,
            GateName::Feedback | GateName::Retries => limits.holds,
            GateName::CrossRead => limits.readings,
            GateName::Quality(flag) => match self.quality.action(flag) {
                SignalAction::Rollback => limits.flags,
                SignalAction::Hold => limits.holds,
                SignalAction::Notify => limits.notices,
                SignalAction::Off => return None,
            },
        };
        Some(log_limit.exp())
    }
}
