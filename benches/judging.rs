//! Simulated rollouts: how often equal canaries are rolled back or held, and how soon broken ones are found.
//!
//! Each rollout is the real state machine and the real routing under simulated traffic and a simulated clock; only
//! the models are made up. All signals are on in every run. Seeded, so that a run can be repeated.
//!
//! `cargo bench --bench judging -- [equal|latency|found|ratios|attacks] [--runs N] [--rule exact|e_value]` prints
//! Markdown tables; without a name, all of them. It does not measure time.

use std::collections::HashMap;
use std::time::Duration;

use serin::rollout::{
    Action, Arm, Class, DecisionKind, Event, EvidenceRule, Flag, Flags, GateState, Origin, Outcome,
    Phase, Policy, Rollout, Weight,
};
use serin::routing::{Recent, RouteInput, pick, session_hash};

/// splitmix64.
#[derive(Clone)]
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn toss(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Standard normal, by Box and Muller.
    fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.unit(), self.unit());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }
}

/// What the canary does differently, besides its errors.
#[derive(Clone, Copy, Default)]
struct Fault {
    /// Its rate of each flag instead of the base rate.
    flag: Option<(Flag, f64)>,
    /// Times are multiplied by this.
    slower: Option<(f64, Slow)>,
    /// It does not answer: clients leave after a second.
    hangs: bool,
    /// Share of requests that it refuses and stable would have taken.
    refuses: f64,
}

/// Which of its replies are slow.
#[derive(Clone, Copy, PartialEq)]
enum Slow {
    All,
    /// The longest 2 %.
    Longest,
    /// The 95 % short ones.
    Short,
}

/// How many requests there are.
#[derive(Clone, Copy)]
enum Traffic {
    PerStage(f64),
    PerSecond(f64),
}

/// The traffic of one kind of simulation.
#[derive(Clone)]
struct Scene {
    policy: Policy,
    /// Traffic: so many canary requests in a stage's bake time, or so many requests a day.
    traffic: Traffic,
    /// Error rates of stable and of the canary.
    errors: [f64; 2],
    /// Sessions that send a failing request at this period in seconds, whatever the model.
    stubborn: Option<(u64, f64)>,
    /// Stubborn parties send every failing request in a new session.
    parties: bool,
    /// Requests name a session or conversation.
    keyed: bool,
    /// Users; conversations belong to them.
    users: u64,
    /// Turns of a conversation, at most.
    turns: u32,
    /// Standard deviation of the logarithm of times within a stratum.
    noise: f64,
    /// Error rates and times grow threefold over the rollout.
    drift: bool,
    /// Base rate of each quality flag, and of votes and retries.
    flags: f64,
    fault: Fault,
    /// A party that tries to bring about a verdict.
    attack: Option<(Attack, f64)>,
    /// Seconds between two ticks, each of which asks for a verdict.
    tick: f64,
    /// The simulation ends here.
    seconds: u64,
}

/// What one party does with any number of sessions of one address.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Attack {
    /// Its requests fail on the canary: it sends poison when it finds itself there.
    Accuse,
    /// Its requests fail on stable, so that a bad canary looks no worse.
    Shield,
    /// Its requests are slow and full of flags on the canary.
    Slander,
}

impl Scene {
    fn new(rule: EvidenceRule) -> Scene {
        Scene {
            policy: Policy { evidence: rule, ..Policy::default() },
            traffic: Traffic::PerStage(310.0),
            errors: [0.01; 2],
            stubborn: None,
            parties: false,
            keyed: false,
            users: 1000,
            turns: 1,
            noise: 0.2,
            drift: false,
            flags: 0.01,
            fault: Fault::default(),
            attack: None,
            tick: 1.0,
            seconds: 3 * 3600,
        }
    }
}

/// A conversation under way.
#[derive(Clone)]
struct Talk {
    id: u64,
    user: u64,
    left: u32,
    tokens: u32,
    last: Option<Arm>,
}

/// How a simulated rollout ended.
#[derive(Default)]
struct End {
    promoted: bool,
    back: Option<String>,
    /// Gates that failed when the weight was held.
    held: Vec<&'static str>,
    /// The reason of the last hold, whatever it was.
    waits: String,
    /// Canary requests until the rollback or the hold.
    canary: u64,
    requests: u64,
    canary_errors: u64,
}

struct Run<'a> {
    scene: &'a Scene,
    rng: Rng,
    rollout: Rollout,
    recent: Recent,
    talks: Vec<Talk>,
    now: f64,
    next_talk: u64,
    end: End,
    id: String,
}

impl<'a> Run<'a> {
    fn new(scene: &'a Scene, seed: u64) -> Run<'a> {
        let mut rollout = Rollout::new(scene.policy.clone());
        let id = format!("r{seed}");
        let start = Event::Start { rollout: id.clone(), self_test: false };
        rollout.step(Duration::ZERO, start).expect("the policy is valid");
        Run {
            scene,
            rng: Rng(seed.wrapping_mul(0x2545_F491_4F6C_DD1D)),
            rollout,
            recent: Recent::default(),
            talks: Vec::new(),
            now: 0.0,
            next_talk: 1,
            end: End::default(),
            id,
        }
    }

    fn over(&self) -> bool {
        !matches!(self.rollout.phase(), Phase::Running { .. })
            || self.now >= self.scene.seconds as f64
            || !self.end.held.is_empty()
    }

    fn go(mut self) -> End {
        let mut tick = self.scene.tick;
        let mut stubborn =
            self.scene.stubborn.map_or(f64::INFINITY, |(_, period)| period * self.rng.unit());
        while !self.over() {
            let rate = match self.scene.traffic {
                Traffic::PerSecond(rate) => rate,
                Traffic::PerStage(count) => {
                    let share = self.rollout.routed().fraction();
                    count / (share * self.scene.policy.bake.as_secs_f64())
                }
            };
            let gap = -(1.0 - self.rng.unit()).ln() / rate;
            self.now += gap;
            while tick <= self.now {
                self.step(tick, Event::Tick);
                tick += self.scene.tick;
            }
            while stubborn <= self.now && !self.over() {
                self.poison();
                let (count, period) = self.scene.stubborn.expect("there are some");
                stubborn += period / count as f64;
            }
            if !self.over() {
                self.request();
            }
        }
        self.end.promoted = *self.rollout.phase() == Phase::Promoted;
        self.end
    }

    fn step(&mut self, at: f64, event: Event) {
        let now = Duration::from_secs_f64(at);
        for action in self.rollout.step(now, event).expect("no order is refused") {
            let Action::Decision(decision) = action else { continue };
            match decision.kind {
                DecisionKind::RolledBack { .. } => self.end.back = Some(decision.text),
                DecisionKind::Held => {
                    let failed =
                        |gate: &&serin::rollout::Gate| matches!(gate.state, GateState::Fail(_));
                    self.end.waits.clone_from(&decision.text);
                    self.end.held.extend(
                        decision.verdict.gates.iter().filter(failed).map(|gate| gate.name.as_str()),
                    );
                }
                _ => {}
            }
        }
    }

    /// Where a request goes, as the server decides it.
    fn route(&mut self, party: u64, key: Option<u64>) -> (Arm, Origin) {
        let name = key.map(|key| format!("{key:x}"));
        let cluster = name.as_deref().map(session_hash);
        let alone = cluster.is_some_and(|cluster| self.recent.dominates(cluster));
        let weight = self.rollout.routed();
        let input = RouteInput {
            rollout: &self.id,
            key: name.as_deref().filter(|_| !alone),
            pin: None,
            draw: self.rng.unit(),
            weight,
            canary_up: true,
        };
        let arm = pick(&input).expect("nothing is pinned").arm;
        self.recent.note(cluster, arm, weight.fraction(), alone);
        let cluster = cluster.filter(|_| !alone);
        (arm, Origin { party: Some(party), cluster, routed: Some(weight) })
    }

    /// A request that fails on either model.
    fn poison(&mut self) {
        let (count, _) = self.scene.stubborn.expect("there are some");
        let who = self.rng.below(count);
        let key = match (self.scene.parties, self.scene.keyed) {
            (false, _) => Some(1 << 40 | who),
            (true, true) => {
                self.next_talk += 1;
                Some(self.next_talk)
            }
            (true, false) => None,
        };
        let (arm, origin) = self.route(u64::MAX - who, key);
        let outcome =
            Outcome { origin, ..Outcome::new(arm, Class::ModelError, self.rollout.stage()) };
        self.outcome(outcome);
    }

    fn outcome(&mut self, outcome: Outcome) {
        let canary = outcome.arm == Arm::Canary;
        self.end.requests += 1;
        self.end.canary += u64::from(canary);
        self.end.canary_errors += u64::from(canary && outcome.class.is_error());
        self.step(self.now, Event::Outcome(outcome));
    }

    /// The conversation that the next request belongs to, its prompt and what of it is cached.
    fn talk(&mut self) -> (Talk, u32) {
        let at = match self.talks.len() < 40 || self.rng.toss(0.02) {
            true => None,
            false => Some(self.rng.below(self.talks.len() as u64) as usize),
        };
        let mut talk = match at {
            Some(at) => self.talks.swap_remove(at),
            None => {
                self.next_talk += 1;
                let left = 1 + self.rng.below(u64::from(self.scene.turns)) as u32;
                let tokens = (60.0 * (1.2 * self.rng.normal()).exp()).clamp(4.0, 30_000.0) as u32;
                let user = self.rng.below(self.scene.users);
                Talk { id: self.next_talk, user, left, tokens, last: None }
            }
        };
        let cached = talk.tokens;
        if talk.last.is_some() {
            talk.tokens = (talk.tokens + 150 + self.rng.below(200) as u32).min(30_000);
        }
        (talk, cached)
    }

    fn request(&mut self) {
        if let Some((_, share)) = self.scene.attack
            && self.rng.toss(share)
        {
            return self.attack();
        }
        let (mut talk, before) = self.talk();
        let key = self.scene.keyed.then_some(talk.id);
        let (arm, origin) = self.route(talk.user, key);
        let cached = if talk.last == Some(arm) { before } else { 0 };
        let outcome = self.answer(arm, origin, talk.tokens, cached);
        talk.last = Some(arm);
        talk.left -= 1;
        if talk.left > 0 && self.scene.turns > 1 {
            self.talks.push(talk);
        }
        self.outcome(outcome);
        self.users_say(arm, origin);
    }

    fn users_say(&mut self, arm: Arm, origin: Origin) {
        let (at, stage) = (self.now, self.rollout.stage());
        if self.rng.toss(0.02) {
            let positive = !self.rng.toss(0.3);
            self.step(at, Event::Feedback { arm, stage, positive, origin });
        }
        if self.rng.toss(self.scene.flags) {
            self.step(at, Event::Retry { arm, stage, origin });
        }
    }

    /// What the arm makes of a request.
    fn answer(&mut self, arm: Arm, origin: Origin, prompt: u32, cached: u32) -> Outcome {
        let scene = self.scene;
        let grown = if scene.drift { 1.0 + 2.0 * (self.now / 5400.0).min(1.0) } else { 1.0 };
        let canary = arm == Arm::Canary;
        let fault = if canary { scene.fault } else { Fault::default() };
        let failed = self.rng.toss((scene.errors[arm.index()] * grown).min(1.0))
            || self.rng.toss(fault.refuses);
        let class = if failed { Class::ModelError } else { Class::Ok };
        let new = prompt.saturating_sub(cached);
        let longest = prompt > 700;
        let factor = fault.slower.map_or(1.0, |(factor, which)| {
            let hit = match which {
                Slow::All => true,
                Slow::Longest => longest,
                Slow::Short => prompt < 430,
            };
            if hit { factor } else { 1.0 }
        });
        let mut time = |base: f64| {
            let noise = (scene.noise * self.rng.normal()).exp();
            Duration::from_secs_f64(base * grown * factor * noise)
        };
        let ttft = time(0.004 + 0.000_2 * f64::from(new));
        let tpot = time(0.01);
        if fault.hangs {
            let waited = Duration::from_secs(1);
            let flags = Flags::NONE.with(Flag::Cancelled);
            return Outcome {
                origin,
                ttft: Some(waited),
                censored: true,
                e2e: waited,
                prompt_tokens: prompt,
                flags,
                ..Outcome::new(arm, Class::ClientCancel, self.rollout.stage())
            };
        }
        let mut flags = Flags::NONE;
        for flag in Flag::ALL.into_iter().filter(|flag| *flag != Flag::Rescued) {
            let rate = fault
                .flag
                .filter(|(which, _)| *which == flag)
                .map_or(scene.flags, |(_, rate)| rate);
            if !failed && self.rng.toss(rate) {
                flags = flags.with(flag);
            }
        }
        if flags.has(Flag::Loop) {
            flags = flags.with(Flag::Length);
        }
        if failed {
            flags = flags.with(Flag::Rescued);
        }
        let cancelled = flags.has(Flag::Cancelled);
        Outcome {
            origin,
            ttft: (!failed).then_some(ttft),
            tpot: (!failed).then_some(tpot),
            e2e: ttft + tpot * 99,
            prompt_tokens: prompt,
            cached_tokens: cached,
            output_tokens: 100,
            flags,
            ..Outcome::new(
                arm,
                if cancelled { Class::ClientCancel } else { class },
                self.rollout.stage(),
            )
        }
    }

    /// One request of the attacker, in a new session of its one address. It sees which model answers.
    fn attack(&mut self) {
        self.next_talk += 1;
        let key = self.rng.toss(0.5).then_some(self.next_talk);
        let (arm, origin) = self.route(u64::MAX, key);
        let mut outcome = self.answer(Arm::Stable, origin, 60, 0);
        outcome.arm = arm;
        let canary = arm == Arm::Canary;
        match self.scene.attack.map(|(attack, _)| attack) {
            Some(Attack::Accuse) if canary => outcome.class = Class::ModelError,
            Some(Attack::Shield) if !canary => {
                outcome.class = Class::ModelError;
                outcome.ttft = outcome.ttft.map(|time| time * 5);
                outcome.flags = Flag::ALL.into_iter().fold(Flags::NONE, Flags::with);
            }
            Some(Attack::Slander) if canary => {
                outcome.ttft = outcome.ttft.map(|time| time * 5);
                outcome.tpot = outcome.tpot.map(|time| time * 5);
                outcome.flags = Flag::ALL.into_iter().fold(Flags::NONE, Flags::with);
                self.step(
                    self.now,
                    Event::Feedback { arm, stage: self.rollout.stage(), positive: false, origin },
                );
                self.step(self.now, Event::Retry { arm, stage: self.rollout.stage(), origin });
            }
            _ => {}
        }
        self.outcome(outcome);
    }
}

/// Many rollouts of one scene, on all processors.
fn many(scene: &Scene, runs: u64) -> Vec<End> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    std::thread::scope(|scope| {
        let part = |first: u64| {
            move || {
                (first..runs)
                    .step_by(threads as usize)
                    .map(|seed| Run::new(scene, seed + 1).go())
                    .collect::<Vec<_>>()
            }
        };
        let parts: Vec<_> = (0..threads).map(|first| scope.spawn(part(first))).collect();
        parts.into_iter().flat_map(|part| part.join().expect("a simulation failed")).collect()
    })
}

fn percent(part: usize, whole: usize) -> String {
    format!("{:.1} %", 100.0 * part as f64 / whole as f64)
}

fn median(mut values: Vec<u64>) -> String {
    values.sort_unstable();
    values.get(values.len() / 2).map_or("-".to_string(), u64::to_string)
}

/// Which gates, and how often.
fn tally<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    names.for_each(|name| *counts.entry(name).or_default() += 1);
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

/// Which signal a rollback's text names.
fn signal(text: &str) -> &'static str {
    let named = |flag: &Flag| text.contains(flag.phrase());
    if text.contains("(fault)") {
        return "fault";
    }
    Flag::ALL.iter().find(|flag| named(flag)).map_or("errors", |flag| flag.as_str())
}

fn row(name: &str, ends: &[End]) {
    let back: Vec<&End> = ends.iter().filter(|end| end.back.is_some()).collect();
    let held: Vec<&End> = ends.iter().filter(|end| !end.held.is_empty()).collect();
    let promoted = ends.iter().filter(|end| end.promoted).count();
    let by = back.iter().filter_map(|end| end.back.as_deref()).map(signal);
    let gates = held.iter().flat_map(|end| end.held.iter().copied());
    let found: Vec<u64> = ends.iter().filter(|end| !end.promoted).map(|end| end.canary).collect();
    println!(
        "| {name} | {} | {} | {} | {} | {} | {} |",
        percent(back.len(), ends.len()),
        tally(by),
        percent(held.len(), ends.len()),
        tally(gates),
        percent(promoted, ends.len()),
        median(found),
    );
    let undecided = |end: &&End| !end.promoted && end.back.is_none() && end.held.is_empty();
    if let Some(end) = ends.iter().find(undecided) {
        eprintln!("{name}: undecided, {}", end.waits);
    }
}

fn head(title: &str, runs: u64) {
    println!("\n## {title}: {runs} rollouts each\n");
    println!(
        "| traffic | rolled back | by | held | by | promoted | canary requests until then (median) |"
    );
    println!("|---|---|---|---|---|---|---|");
}

/// Equal models, and sessions or parties that fail on either.
fn equal(rule: EvidenceRule, runs: u64) {
    head("Equal models", runs);
    for errors in [0.0, 0.001, 0.01, 0.05] {
        for stubborn in [None, Some((1, 90.0)), Some((1, 5.0)), Some((3, 30.0)), Some((5, 300.0))] {
            for (parties, keyed) in [(false, false), (true, false), (true, true)] {
                if stubborn.is_none() && parties {
                    continue;
                }
                let drift = errors == 0.01;
                let scene = Scene {
                    errors: [errors; 2],
                    stubborn,
                    parties,
                    keyed,
                    drift,
                    turns: 3,
                    ..Scene::new(rule)
                };
                let who = match (stubborn, parties, keyed) {
                    (None, ..) => "none stubborn".to_string(),
                    (Some((n, period)), false, _) => format!("{n} sessions, every {period} s"),
                    (Some((n, period)), true, false) => {
                        format!("{n} parties without keys, every {period} s")
                    }
                    (Some((n, period)), true, true) => {
                        format!("{n} parties, new key each, every {period} s")
                    }
                };
                let drift = if drift { ", drift" } else { "" };
                row(&format!("errors {} %{drift}; {who}", errors * 100.0), &many(&scene, runs));
            }
        }
    }
}

/// Equal models in chats with prefix caches.
fn latency(rule: EvidenceRule, runs: u64) {
    head("Equal models, latency", runs);
    for (keyed, turns) in [(true, 1), (true, 4), (true, 12), (false, 1), (false, 4), (false, 12)] {
        for noise in [0.2, 0.5, 1.0] {
            let drift = noise == 0.5;
            let scene = Scene { keyed, turns, noise, drift, ..Scene::new(rule) };
            let keys = if keyed { "conversations" } else { "each request drawn" };
            let load = if drift { ", load triples" } else { "" };
            row(&format!("{keys}, {turns} turns, log-sd {noise}{load}"), &many(&scene, runs));
        }
    }
}

/// Broken canaries.
fn found(rule: EvidenceRule, runs: u64) {
    head("Broken canaries", runs);
    let slow = |factor, which| Fault { slower: Some((factor, which)), ..Fault::default() };
    let flag = |flag, rate| Fault { flag: Some((flag, rate)), ..Fault::default() };
    let more = |scene: Scene| Scene {
        policy: Policy { min_requests: 600, ..scene.policy.clone() },
        traffic: Traffic::PerStage(620.0),
        ..scene
    };
    for noise in [0.2, 0.5, 1.0] {
        let scene = |fault| Scene { fault, noise, keyed: true, turns: 1, ..Scene::new(rule) };
        row(&format!("1.2 x slower, log-sd {noise}"), &many(&scene(slow(1.2, Slow::All)), runs));
        row(
            &format!("longest 2 % 2 x slower, 600 a stage, log-sd {noise}"),
            &many(&more(scene(slow(2.0, Slow::Longest))), runs),
        );
        row(
            &format!("short ones 10 x slower, log-sd {noise}"),
            &many(&scene(slow(10.0, Slow::Short)), runs),
        );
    }
    let faults = [
        ("refuses a quarter (template)", Fault { refuses: 0.25, ..Fault::default() }),
        ("refuses a third (context)", Fault { refuses: 0.33, ..Fault::default() }),
        ("empty 50 %", flag(Flag::Empty, 0.5)),
        ("empty 10 %", flag(Flag::Empty, 0.1)),
        ("endless", flag(Flag::Length, 1.0)),
        ("loops 10 %", flag(Flag::Loop, 0.1)),
        ("broken JSON in 20 % of a third", flag(Flag::Structure, 0.066)),
        ("hangs", Fault { hangs: true, ..Fault::default() }),
        ("another script", flag(Flag::Script, 0.9)),
    ];
    for (name, fault) in faults {
        let scene = Scene { fault, keyed: true, turns: 1, ..Scene::new(rule) };
        row(name, &many(&scene, runs));
    }
}

/// Plain error ratios, and little traffic.
fn ratios(rule: EvidenceRule, runs: u64) {
    head("Error ratios", runs);
    for percent in [5, 25, 50] {
        for ratio in [2.0, 3.0, 5.0, 10.0] {
            for users in [1, 3, 10, 1000] {
                let weight = Weight::new(percent).expect("at most 100");
                let mut scene = Scene {
                    errors: [0.01, 0.01 * ratio],
                    users,
                    keyed: true,
                    turns: 3,
                    flags: 0.0,
                    ..Scene::new(rule)
                };
                scene.policy.steps = vec![weight, Weight::FULL];
                scene.traffic = Traffic::PerSecond(1.0);
                scene.policy.bake = Duration::from_secs(86_400);
                scene.seconds = 86_400;
                row(&format!("{percent} %: {ratio} x, {users} users"), &many(&scene, runs));
            }
        }
    }
    let mut scene = Scene {
        errors: [0.0, 1.0],
        traffic: Traffic::PerSecond(10.0 / 86_400.0),
        flags: 0.0,
        seconds: 400 * 86_400,
        ..Scene::new(rule)
    };
    scene.policy.fault_streak = 10;
    let ends = many(&scene, runs.min(200));
    row("10 requests a day, total failure", &ends);
    let most = ends.iter().map(|end| end.canary_errors).max().unwrap_or(0);
    println!("\nCanary errors until the rollback, 10 requests a day: at most {most}.");
}

/// One party that wants a verdict.
fn attacks(rule: EvidenceRule, runs: u64) {
    head("One party against the verdict", runs);
    let kinds = [
        (Attack::Accuse, 1.0),
        (Attack::Slander, 1.0),
        (Attack::Shield, 1.0),
        (Attack::Shield, 10.0),
    ];
    for (attack, ratio) in kinds {
        for share in [0.3, 0.6, 0.9] {
            let attacker = Some((attack, share));
            let errors = [0.01, 0.01 * ratio];
            // One party is at most half of a stage's sample (`max_key_share`), so that steps take longer.
            let seconds = if share > 0.8 { 12 * 3600 } else { 3 * 3600 };
            let scene = Scene {
                attack: attacker,
                errors,
                turns: 3,
                keyed: true,
                // Some of these rollouts stay undecided for hours.
                tick: 10.0,
                seconds,
                ..Scene::new(rule)
            };
            let name = format!(
                "{attack:?} with {} % of the traffic, canary's errors {ratio} x",
                share * 100.0
            );
            row(&name, &many(&scene, runs));
        }
    }
}

/// Prints one table.
type Table = fn(EvidenceRule, u64);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|one| one != "--bench").collect();
    let value = |name: &str| {
        arguments.iter().position(|one| one == name).and_then(|at| arguments.get(at + 1))
    };
    let runs = value("--runs").map_or(200, |runs| runs.parse().expect("--runs takes a number"));
    let rule = match value("--rule").map(String::as_str) {
        None | Some("exact") => EvidenceRule::Exact,
        Some("e_value") => EvidenceRule::EValue,
        Some(other) => panic!("--rule is exact or e_value, not {other}"),
    };
    let tables: [(&str, Table); 5] = [
        ("equal", equal),
        ("latency", latency),
        ("found", found),
        ("ratios", ratios),
        ("attacks", attacks),
    ];
    let named = arguments.first().filter(|one| !one.starts_with("--"));
    println!("# Simulated rollouts, rule {rule:?}");
    for (name, table) in tables {
        if named.is_none_or(|named| named == name) {
            table(rule, runs);
        }
    }
}
