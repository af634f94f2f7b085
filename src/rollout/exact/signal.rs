//! One kind of bad event over a rollout: its evidence, its ratio, and the parties that it depends on.
//!
//! The evidence is an e-value that the event is more frequent on the canary; the ratio says by how much. Both use the
//! exact probability p of each event, so no request counts are needed, and an arm without requests does not lead to
//! 0/0. The ratio is R = sum x(1-p) / sum (1-x)p over events, with x = 1 on the canary. It is taken over the segments
//! since the restart that holds most of the evidence, so that a healthy past does not hide a regression. It does not
//! know what the event is.

use std::collections::VecDeque;
use std::time::Duration;

use super::bets::{Bet, Factors};
use super::door::{Door, WhenFull};
use super::parties::Parties;
use crate::rollout::capital::{Capital, add};
use crate::rollout::evalue::{RUNGS, SLOTS, exact_interval, ln_sum};
use crate::rollout::keys::slot;
use crate::rollout::signal::Restarts;
pub(crate) use crate::rollout::strata::Ratio;
use crate::rollout::{Arm, Origin, Weight};

/// Number of segments kept individually; older ones are merged.
const SEGMENTS: usize = 64;
/// Number of different probabilities kept; further ones are counted with the nearest.
const PROBABILITIES: usize = 64;
/// A slot with this share of stable's events, and this many of them, may hide a regression.
const HIDES: (f64, f64) = (0.4, 3.0);
/// The part of the e-value needed that must be there without any one party. At the default limit of 25, others then
/// give an e-value of 10: a party that fails whenever it is on the canary rolls back at most one equal canary in ten.
/// A larger part makes that rarer, and finds regressions that few users suffer alike later.
const CONFIRMS: f64 = 0.4;

/// Who sent a request, and how it was routed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Draw {
    pub(crate) arm: Arm,
    pub(crate) party: Option<u64>,
    pub(crate) cluster: Option<u64>,
    /// The probability of the canary when the request was routed.
    pub(crate) w: f64,
}

impl Draw {
    /// `weight`: of the stage that the request was routed in.
    pub(crate) fn of(arm: Arm, origin: &Origin, weight: Weight) -> Draw {
        let w = origin.routed.unwrap_or(weight).fraction();
        Draw { arm, party: origin.party, cluster: origin.cluster, w }
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Segment {
    restart: u32,
    logs: [f64; RUNGS],
    ratio: Ratio,
}

/// The evidence about one kind of event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Signal {
    door: Door,
    restarts: Restarts,
    factors: Factors,
    capital: Capital<RUNGS>,
    segments: VecDeque<Segment>,
    /// Over the whole rollout.
    pub(crate) ratio: Ratio,
    /// Counted events, by [`Arm::index`].
    pub(crate) counted: [u64; 2],
    by_p: Vec<(f64, [f64; 2])>,
    /// Stable's events by slot of parties.
    stable_by_slot: [f64; SLOTS],
}

/// What the evidence about one kind of event amounts to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Finding {
    /// It does not reach the limit.
    Below,
    /// It reaches the limit, and without any one party that the others can do without it confirms that.
    Proved,
    /// It reaches the limit, but not without one of the parties.
    OneParty,
    /// It reaches the limit only without a party that has most of stable's events.
    Hidden,
}

impl Signal {
    pub(crate) fn new() -> Signal {
        Signal {
            door: Door::new(WhenFull::Refuse),
            restarts: Restarts::default(),
            factors: Factors::default(),
            capital: Capital::new(),
            segments: VecDeque::new(),
            ratio: Ratio::default(),
            counted: [0; 2],
            by_p: Vec::new(),
            stable_by_slot: [0.0; SLOTS],
        }
    }

    /// A stage begins, and a component of the capital with it.
    pub(crate) fn begin(&mut self, now: Duration) {
        let k = self.restarts.begin(now);
        self.restart(k);
    }

    fn restart(&mut self, k: u32) {
        self.capital.restart(k);
        // A segment without events is of no use; its restart goes to the next one.
        self.segments.retain(|segment| segment.logs != [0.0; RUNGS]);
        if self.segments.len() == SEGMENTS {
            merge_oldest(&mut self.segments);
        }
        self.segments.push_back(Segment {
            restart: k,
            logs: [0.0; RUNGS],
            ratio: Ratio::default(),
        });
    }

    /// One event. Nothing happens if it says nothing about the arms.
    pub(crate) fn observe(&mut self, now: Duration, interval: Duration, draw: &Draw) {
        let Some(p) = self.door.count(draw.cluster, draw.w, draw.arm) else { return };
        if let Some(k) = self.restarts.due(now, interval) {
            self.restart(k);
        }
        let hit = draw.arm == Arm::Canary;
        let at = draw.party.map(slot);
        let factors = self.factors.of(p, Bet::Seldom, hit);
        self.capital.settle(factors, at);
        self.ratio.weigh(p, hit);
        self.counted[draw.arm.index()] += 1;
        if let Some(segment) = self.segments.back_mut() {
            add(&mut segment.logs, factors);
            segment.ratio.weigh(p, hit);
        }
        if let Some(at) = at.filter(|_| !hit) {
            self.stable_by_slot[at] += 1.0;
        }
        self.count_by_p(p, draw.arm);
    }

    fn count_by_p(&mut self, p: f64, arm: Arm) {
        let exact = self.by_p.iter().position(|(known, _)| *known == p);
        let at = exact.unwrap_or_else(|| {
            if self.by_p.len() < PROBABILITIES {
                self.by_p.push((p, [0.0; 2]));
                return self.by_p.len() - 1;
            }
            let distance = |at: &usize| (self.by_p[*at].0 - p).abs();
            (0..PROBABILITIES).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(0)
        });
        self.by_p[at].1[arm.index()] += 1.0;
    }

    /// ln of the e-value.
    pub(crate) fn log_e(&self) -> f64 {
        self.capital.log_e()
    }

    /// What the evidence amounts to at this limit, given as ln of the e-value that is needed.
    pub(crate) fn finding(&self, limit: f64, parties: &Parties) -> Finding {
        let optional = |slot| parties.can_do_without(slot);
        if self.log_e() >= limit {
            let without = self.capital.log_e_without(optional);
            let confirmed = without >= limit + CONFIRMS.ln();
            return if confirmed { Finding::Proved } else { Finding::OneParty };
        }
        let all = self.counted[Arm::Stable.index()] as f64;
        let hides = |slot: usize| {
            let events = self.stable_by_slot[slot];
            events >= HIDES.1 && events > HIDES.0 * all && optional(slot)
        };
        match self.capital.any_without(hides, limit) {
            true => Finding::Hidden,
            false => Finding::Below,
        }
    }

    /// The ratio over the segments since the restart that holds most of the evidence.
    pub(crate) fn ratio_of_evidence(&self) -> Ratio {
        let (mut logs, mut ratio) = ([0.0; RUNGS], Ratio::default());
        let mut best = (f64::NEG_INFINITY, Ratio::default());
        for segment in self.segments.iter().rev() {
            add(&mut logs, &segment.logs);
            ratio = ratio.plus(segment.ratio);
            let k = f64::from(segment.restart);
            let log = ln_sum(&logs) - (k * (k + 1.0)).ln();
            if log > best.0 {
                best = (log, ratio);
            }
        }
        best.1
    }

    /// The ratios that the events do not contradict at level `alpha` on either side.
    pub(crate) fn interval(&self, alpha: f64) -> (f64, Option<f64>) {
        exact_interval(&self.by_p, alpha)
    }
}

/// Merges the two oldest segments; the older one's restart stays.
fn merge_oldest(segments: &mut VecDeque<Segment>) {
    if let Some(oldest) = segments.pop_front()
        && let Some(next) = segments.front_mut()
    {
        add(&mut next.logs, &oldest.logs);
        next.ratio = next.ratio.plus(oldest.ratio);
        next.restart = oldest.restart;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn on(arm: Arm, w: f64) -> Draw {
        Draw { arm, party: None, cluster: None, w }
    }

    fn begun() -> Signal {
        let mut signal = Signal::new();
        signal.begin(Duration::ZERO);
        signal
    }

    fn limit() -> f64 {
        40f64.ln()
    }

    #[test]
    fn three_errors_at_five_percent_and_none_on_stable_are_proof() {
        let (mut signal, parties) = (begun(), Parties::new());
        let found = |signal: &mut Signal| {
            signal.observe(SECOND, 900 * SECOND, &on(Arm::Canary, 0.05));
            signal.finding(limit(), &parties)
        };
        assert_eq!(found(&mut signal), Finding::Below);
        assert_eq!(found(&mut signal), Finding::Below);
        assert_eq!(found(&mut signal), Finding::Proved);
        assert!(signal.ratio.is_infinite() && signal.ratio_of_evidence().reaches(1.5));
    }

    #[test]
    fn the_ratio_needs_no_denominators_and_forgets_a_healthy_past() {
        let mut signal = begun();
        for i in 0..400 {
            let arm = if i % 4 == 0 { Arm::Canary } else { Arm::Stable };
            signal.observe(SECOND, 900 * SECOND, &on(arm, 0.25));
        }
        assert!(signal.ratio.value().is_some_and(|ratio| (ratio - 1.0).abs() < 1e-9));
        signal.begin(2 * SECOND);
        for i in 0..60 {
            let arm = if i % 4 == 0 { Arm::Stable } else { Arm::Canary };
            signal.observe(2 * SECOND, 900 * SECOND, &on(arm, 0.25));
        }
        let late = signal.ratio_of_evidence().value().expect("stable has some");
        assert!((late - 9.0).abs() < 1e-9, "{late}");
        assert!(signal.ratio.value().is_some_and(|ratio| ratio < 1.6));
        let (low, high) = signal.interval(0.05);
        assert!(low < 1.5 && high.is_some_and(|high| high > 1.2), "{low} {high:?}");
    }

    #[test]
    fn one_party_neither_proves_nor_hides_anything_beside_others() {
        let mut parties = Parties::new();
        (0..1000).for_each(|other| parties.count(Some(2 + other)));
        let party = Some(1);
        let mut loud = begun();
        for _ in 0..50 {
            loud.observe(SECOND, SECOND * 900, &Draw { party, ..on(Arm::Canary, 0.5) });
        }
        assert_eq!(loud.finding(limit(), &parties), Finding::OneParty);
        let mut masked = begun();
        for other in 2..22 {
            let other = Draw { party: Some(other), ..on(Arm::Canary, 0.5) };
            masked.observe(SECOND, SECOND * 900, &other);
        }
        assert_eq!(masked.finding(limit(), &parties), Finding::Proved);
        for _ in 0..20 {
            masked.observe(SECOND, SECOND * 900, &Draw { party, ..on(Arm::Stable, 0.5) });
        }
        assert_eq!(masked.finding(limit(), &parties), Finding::Hidden);
        let mut alone = Parties::new();
        (0..1000).for_each(|_| alone.count(party));
        assert_eq!(loud.finding(limit(), &alone), Finding::Proved, "nobody else is there");
    }

    #[test]
    fn memory_is_bounded() {
        let mut signal = begun();
        for i in 0..300u32 {
            signal.begin(SECOND * i);
            let w = 0.1 + 0.8 * f64::from(i) / 300.0;
            signal.observe(SECOND * i, SECOND, &on(Arm::Stable, w));
        }
        assert!(signal.segments.len() <= SEGMENTS && signal.by_p.len() <= PROBABILITIES);
        assert_eq!(signal.counted, [300, 0]);
    }
}
