//! A rollout with a clock that tests control, and short helpers for what they check.

use std::time::Duration;

use super::*;

pub(super) const SECOND: Duration = Duration::from_secs(1);

/// Random figures with a seed (splitmix64).
pub(super) struct Luck(pub(super) u64);

impl Luck {
    /// Uniform in [0, 1).
    pub(super) fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Log-normal about `median`.
    pub(super) fn near(&mut self, median: f64, sd: f64) -> f64 {
        let normal = (0..12).map(|_| self.unit()).sum::<f64>() - 6.0;
        median * (sd * normal).exp()
    }
}

/// A machine with a clock that the test controls.
#[derive(Clone)]
pub(super) struct Trial {
    pub(super) rollout: Rollout,
    pub(super) now: Duration,
    pub(super) sent: u64,
}

impl Trial {
    pub(super) fn start(policy: Policy) -> Trial {
        let mut trial = Trial { rollout: Rollout::new(policy), now: SECOND, sent: 0 };
        let actions = trial.step(Event::Start { rollout: "r1".to_string(), self_test: false });
        assert_eq!(kinds(&actions), [DecisionKind::Started]);
        trial
    }

    /// The default policy without warm-up, so that every outcome is judged.
    pub(super) fn warm() -> Trial {
        Trial::start(Policy { warmup_requests: 0, ..Policy::default() })
    }

    /// The same with the rule of earlier versions.
    pub(super) fn earlier() -> Trial {
        let evidence = EvidenceRule::EValue;
        Trial::start(Policy { warmup_requests: 0, evidence, ..Policy::default() })
    }

    /// The same with the plain rule.
    pub(super) fn bare() -> Trial {
        let evidence = EvidenceRule::None;
        Trial::start(Policy { warmup_requests: 0, evidence, ..Policy::default() })
    }

    pub(super) fn step(&mut self, event: Event) -> Vec<Action> {
        self.rollout.step(self.now, event).expect("the event makes sense")
    }

    pub(super) fn order(&mut self, command: Operator) -> Result<Vec<Action>, StepError> {
        let reason = Some("a drill".to_string());
        let order = Order { command, by: "ann".to_string(), reason };
        self.rollout.step(self.now, Event::Operator(order))
    }

    pub(super) fn ok(&self, arm: Arm) -> Outcome {
        Outcome {
            ttft: Some(Duration::from_millis(100)),
            tpot: Some(Duration::from_millis(10)),
            e2e: SECOND,
            prompt_tokens: 20,
            output_tokens: 90,
            ..Outcome::new(arm, Class::Ok, self.rollout.stage())
        }
    }

    pub(super) fn send(&mut self, count: u64, outcome: Outcome) -> Vec<Action> {
        (0..count).flat_map(|_| self.step(Event::Outcome(outcome.clone()))).collect()
    }

    pub(super) fn oks(&mut self, arm: Arm, count: u64) -> Vec<Action> {
        self.send(count, self.ok(arm))
    }

    pub(super) fn errors(&mut self, arm: Arm, count: u64) -> Vec<Action> {
        self.send(count, Outcome { class: Class::ModelError, ..self.ok(arm) })
    }

    pub(super) fn votes(&mut self, arm: Arm, up: u64, down: u64) {
        let stage = self.rollout.stage();
        for vote in 0..up + down {
            self.step(Event::Feedback {
                arm,
                stage,
                positive: vote < up,
                origin: Origin::default(),
            });
        }
    }

    /// Bakes to the end with a full sample of both arms, then ticks; `canary` is the outcome of every canary
    /// request.
    pub(super) fn bake(&mut self, canary: Outcome) -> Vec<Action> {
        self.oks(Arm::Stable, 300);
        self.send(300, canary);
        self.now += Duration::from_secs(900);
        self.step(Event::Tick)
    }

    pub(super) fn bake_well(&mut self) -> Vec<Action> {
        let canary = self.ok(Arm::Canary);
        self.bake(canary)
    }

    /// One second of `rate` requests, split by the current weight, and the tick that ends it.
    pub(super) fn second(&mut self, rate: u64) -> Vec<Action> {
        self.now += SECOND;
        let mut actions = Vec::new();
        for _ in 0..rate {
            self.sent += 1;
            // 37 and 100 are coprime: every 100 requests hit every point once.
            let canary = self.sent * 37 % 100 < u64::from(self.rollout.routed().percent());
            let arm = if canary { Arm::Canary } else { Arm::Stable };
            actions.extend(self.oks(arm, 1));
        }
        actions.extend(self.step(Event::Tick));
        actions
    }

    pub(super) fn view(&self) -> View {
        self.rollout.view(self.now)
    }

    pub(super) fn gate(&self, name: GateName) -> Gate {
        self.view().verdict.gate(name).expect("every gate is there").clone()
    }

    pub(super) fn weight(&self) -> u8 {
        self.rollout.weight().percent()
    }
}

/// A request of this party and session.
pub(super) fn from(party: Option<u64>, cluster: Option<u64>) -> Origin {
    Origin { party, cluster, routed: None }
}

pub(super) fn kinds(actions: &[Action]) -> Vec<DecisionKind> {
    let kind = |action: &Action| match action {
        Action::Decision(decision) => Some(decision.kind),
        _ => None,
    };
    actions.iter().filter_map(kind).collect()
}

pub(super) fn start(rollout: &str) -> Event {
    Event::Start { rollout: rollout.to_string(), self_test: false }
}

pub(super) fn percent(percent: u8) -> Weight {
    Weight::new(percent).expect("at most 100")
}

pub(super) fn raised(from: u8, to: u8) -> DecisionKind {
    DecisionKind::Raised { from: percent(from), to: percent(to) }
}

pub(super) fn rolled_back(actions: &[Action], cause: Cause) -> bool {
    matches!(
        actions,
        [
            Action::SetWeight { weight: Weight::ZERO, .. },
            Action::UnloadCanary,
            Action::Decision(Decision { kind: DecisionKind::RolledBack { cause: found }, .. }),
        ] if *found == cause
    )
}
