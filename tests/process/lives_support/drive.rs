//! Runs one life of a server as a real process: starts it, checks its state, gives its orders, ends it, and
//! computes the possible states of the next one. Panics if a server is not in an allowed state.

use super::plan::{self, Draw, Life, Longest, Moment};
use super::rule::{self, During, End, Order, Stand, Trial, Version};
use crate::support::{Group, Process, send_signal, wait_for};
use serde_json::{Value, json};
use serin::ledger::{Entry, HowEnded, Reader};
use serin::rollout::DecisionKind;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long stable may take to answer, beyond its own load time.
const WITHIN: Duration = Duration::from_secs(2);
/// In lives with a short `well_after`, a canary is healthy after this time.
pub const QUICK: Duration = Duration::from_millis(60);

/// The settings that a server is started with.
pub struct Launch<'a> {
    pub dir: &'a Path,
    pub addr: &'a str,
    pub stable: &'a Path,
    pub named: Option<&'a Path>,
    pub well_after: Duration,
    pub group: Option<&'a Group>,
}

/// The servers of a test, and the ledger that they share.
pub struct World {
    /// Public name of the model.
    pub name: &'static str,
    dir: TempDir,
    addr: String,
    models: [PathBuf; 3],
    digests: BTreeMap<String, Version>,
    load_time: Duration,
    longest: Longest,
    launch: fn(&Launch<'_>) -> Command,
    /// The word that kills a canary.
    poison: Option<&'static str>,
    group: Option<Group>,
    starving: bool,
    /// Number of bytes of the ledger's log that contain everything acknowledged, and the state of its main
    /// file at that time.
    safe: (u64, Option<std::time::SystemTime>),
}

/// What happened in the lives so far.
#[derive(Debug, Default)]
pub struct Tally {
    lives: u64,
    ends: BTreeMap<&'static str, u64>,
    moments: BTreeMap<&'static str, u64>,
    acknowledged: u64,
    /// Orders without a response.
    pending: u64,
    refusals: Refusals,
    log_cut: u64,
    worst: Duration,
    load_time: Duration,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Tally { lives, ends, moments, acknowledged, pending, refusals, .. } = self;
        let [once, twice] = refusals.refused;
        writeln!(f, "{lives} lives; ends: {ends:?}; when: {moments:?}")?;
        writeln!(
            f,
            "{acknowledged} orders acknowledged, 0 lost; {pending} without an answer; {} power cuts that took \
             the log's end along",
            self.log_cut
        )?;
        writeln!(f, "versions refused after 1 end: {once}, after 2: {twice}")?;
        write!(
            f,
            "load time {:?}; stable's answer at worst {:?} later than that",
            self.load_time, self.worst
        )
    }
}

/// How a life ended.
struct Ended {
    from: Vec<Stand>,
    during: During,
    end: End,
}

impl World {
    /// A world of models that are alike in everything except their content.
    pub fn new(
        name: &'static str,
        dir: TempDir,
        models: [PathBuf; 3],
        launch: fn(&Launch<'_>) -> Command,
        longest: Longest,
    ) -> World {
        // A loopback address of its own: the port is the same in all lives, and no other process uses it.
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let (pid, next) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let addr = format!("127.{}.{}.{next}:8080", 1 + pid / 250 % 250, 1 + pid % 250);
        let mut world = World {
            name,
            dir,
            addr,
            models,
            digests: BTreeMap::new(),
            load_time: Duration::ZERO,
            longest,
            launch,
            poison: None,
            group: None,
            starving: false,
            safe: (0, None),
        };
        world.calibrate();
        world
    }

    /// A canary aborts when it gets this word in a prompt.
    pub fn with_poison(mut self, poison: &'static str) -> World {
        self.poison = Some(poison);
        self
    }

    /// Servers run in a memory cgroup. `starving`: they really run out of memory.
    pub fn within(mut self, group: Option<Group>, starving: bool) -> World {
        if let Some(group) = group.as_ref().filter(|_| !starving) {
            group.sacrifice();
        }
        (self.group, self.starving) = (group, starving);
        self
    }

    pub fn ledger(&self) -> PathBuf {
        self.dir.path().join("serin.ledger")
    }

    fn beside(&self, what: &str) -> PathBuf {
        self.dir.path().join(format!("serin.ledger{what}"))
    }

    /// Starts each model alone: finds its version, and how long its load takes.
    fn calibrate(&mut self) {
        let mut times = Vec::new();
        for version in [1, 2, 3, 1, 2, 3u8] {
            let dir = TempDir::new().expect("a folder");
            let launch = Launch {
                dir: dir.path(),
                addr: &self.addr,
                stable: self.model(version),
                named: None,
                well_after: Duration::from_secs(600),
                group: None,
            };
            let begun = Instant::now();
            let server = Process::spawn((self.launch)(&launch), &self.addr);
            self.until_answered(&server, "GET", "/readyz", None);
            times.push(begun.elapsed());
            let digest = server.status()["arms"][0]["digest"].as_str().expect("one").to_owned();
            self.digests.insert(digest, version);
        }
        times.sort();
        self.load_time = times[times.len() / 2];
        assert_eq!(self.digests.len(), 3, "three models that differ");
    }

    pub fn model(&self, version: Version) -> &Path {
        &self.models[usize::from(version) - 1]
    }

    fn version(&self, name: &Value) -> Option<Version> {
        let name = name.as_str()?;
        (1..=3).find(|one| name.ends_with(self.model(*one).file_name().unwrap().to_str().unwrap()))
    }

    pub fn spawn(&self, named: Option<Version>, quick: bool) -> Process {
        let launch = Launch {
            dir: self.dir.path(),
            addr: &self.addr,
            stable: self.model(1),
            named: named.map(|version| self.model(version)),
            well_after: if quick { QUICK } else { Duration::from_secs(600) },
            group: self.group.as_ref(),
        };
        Process::spawn((self.launch)(&launch), &self.addr)
    }

    fn until_answered(&self, server: &Process, method: &str, path: &str, body: Option<&Value>) {
        let begun = Instant::now();
        loop {
            if let Some((200, _)) = server.try_http(method, path, body) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{path} is never answered");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn chat(&self, arm: &str, text: &str) -> Value {
        json!({
            "model": format!("{}{arm}", self.name), "max_tokens": 4, "temperature": 0,
            "messages": [{"role": "user", "content": text}],
        })
    }

    /// Waits until stable answers; returns how much longer than its load that took.
    pub fn stable_answers(&self, server: &Process, since: Instant) -> Duration {
        let chat = self.chat("@stable", "Hi!");
        self.until_answered(server, "POST", "/v1/chat/completions", Some(&chat));
        let excess = since.elapsed().saturating_sub(self.load_time);
        assert!(excess < WITHIN, "stable answers {excess:?} after its load time");
        excess
    }

    /// The state that a server reports.
    fn look(&self, server: &Process) -> Stand {
        let status = server.status();
        let running = ["running", "paused"].contains(&status["phase"].as_str().expect("a phase"));
        let trial = running.then(|| Trial {
            version: self.version(&status["arms"][1]["version"]).unwrap_or(0),
            weight: status["weight"].as_u64().expect("a weight") as u8,
            paused: status["paused"].as_bool().expect("known"),
        });
        assert!(running || status["weight"] == 0, "no weight without a rollout: {status:#}");
        let reader = Reader::open(&self.ledger()).expect("a ledger");
        let state = reader.state().expect("a state");
        let of = |digest: &str| self.known(digest);
        let rejected = state.rejected.iter().filter_map(|one| of(&one.digest)).collect();
        let mut kills = BTreeMap::new();
        for one in &state.suspects {
            let version = of(&one.digest).expect("a model of the test");
            *kills.entry(version).or_insert(0) += one.ends;
        }
        let mut stand = Stand {
            stable: self.version(&status["arms"][0]["version"]).expect("a stable"),
            trial,
            previous: self.version(&status["previous"]),
            rejected,
            kills,
        };
        // A rejected version starts from zero once it is tried again.
        stand.kills.retain(|version, _| !stand.rejected.contains(version));
        stand
    }

    /// The version of a digest, or of the placeholder for a digest that is not known yet.
    fn known(&self, digest: &str) -> Option<Version> {
        let place = |one: &Version| digest.ends_with(self.model(*one).to_str().expect("text"));
        self.digests.get(digest).copied().or_else(|| (1..=3).find(place))
    }

    /// Waits until a server is in an allowed state; entries reach the disk a little after they take effect.
    fn stands(&mut self, server: &Process, possible: &[Stand], what: &str) -> Stand {
        let begun = Instant::now();
        loop {
            let stand = self.look(server);
            if possible.contains(&stand) {
                self.mark();
                return stand;
            }
            if begun.elapsed() > Duration::from_secs(5) {
                let status = server.status();
                panic!(
                    "{what}: it stands at {stand:?}\nwhat may be: {possible:#?}\n{}\n{}\n{}",
                    status["remarks"],
                    status["reason"],
                    self.shown(24)
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn shown(&self, last: usize) -> String {
        let reader = Reader::open(&self.ledger()).expect("a ledger");
        let entries = reader.entries(0, usize::MAX).expect("entries");
        let from = entries.len().saturating_sub(last);
        let brief = |text: String| text.chars().take(240).collect::<String>();
        entries[from..].iter().map(|kept| brief(format!("{:?}", kept.entry)) + "\n").collect()
    }

    /// Notes that everything in the ledger's files now has been acknowledged.
    fn mark(&mut self) {
        let length = fs::metadata(self.beside("-wal")).map_or(0, |file| file.len());
        self.safe = (length, self.main_file());
    }

    fn main_file(&self) -> Option<std::time::SystemTime> {
        fs::metadata(self.ledger()).and_then(|file| file.modified()).ok()
    }
}

/// The HTTP request for an order.
fn request(world: &World, order: Order, revision: &Value) -> (&'static str, Value) {
    let with = |more: Value| {
        let mut body = json!({"by": "a test", "expect": revision});
        body.as_object_mut().expect("one").extend(more.as_object().expect("one").clone());
        body
    };
    match order {
        Order::Load { version, retry } => {
            let path = world.model(version);
            ("/admin/canary/load", json!({"path": path, "retry": retry, "by": "a test"}))
        }
        Order::Weight(percent) => ("/admin/weight", with(json!({"percent": percent}))),
        Order::Pause => ("/admin/pause", with(json!({}))),
        Order::Resume => ("/admin/resume", with(json!({}))),
        Order::Rollback => ("/admin/rollback", with(json!({}))),
        Order::Promote => ("/admin/promote", with(json!({"now": true}))),
        Order::Undo => ("/admin/undo", with(json!({}))),
        Order::Confirm => ("/admin/confirm", with(json!({}))),
    }
}

/// Runs `lives` lives one after the other; returns statistics.
pub fn lives(world: &mut World, seed: u64, lives: u64) -> Tally {
    let mut draw = Draw::new(seed);
    let mut tally = Tally { load_time: world.load_time, ..Tally::default() };
    let (mut possible, mut alone) = (vec![Stand::new(1)], false);
    for number in 0..lives {
        let life = plan::life(&mut draw);
        let what = format!("seed {seed}, life {number}: {life:?}");
        let Ended { from, during, end } =
            one_life(world, &mut draw, life, (possible, alone), &mut tally, &what);
        tally.lives += 1;
        *tally.ends.entry(end.name()).or_default() += 1;
        *tally.moments.entry(moment(during)).or_default() += 1;
        let started = matches!(during, During::Start { .. });
        let loaded = matches!(during, During::Order(Order::Load { .. }));
        alone = (started && alone) || loaded || from.iter().any(|stand| stand.trial.is_some());
        possible = rule::after_end(&from, end, during, life.quick);
        intact(world, &what);
    }
    let since = Instant::now();
    let mut server = world.spawn(None, false);
    tally.worst = tally.worst.max(world.stable_answers(&server, since));
    server.greeted();
    world.stands(&server, &possible, "at last");
    drop(server);
    replayed(world);
    tally.refusals.follow(world);
    tally
}

fn moment(during: During) -> &'static str {
    match during {
        During::Nothing => "at rest or after an acknowledged order",
        During::Order(_) => "during an order",
        During::Start { .. } => "during a start",
    }
}

fn one_life(
    world: &mut World,
    draw: &mut Draw,
    life: Life,
    (possible, alone): (Vec<Stand>, bool),
    tally: &mut Tally,
    what: &str,
) -> Ended {
    let Life { named, quick, .. } = life;
    let left = fs::read(world.beside(".life")).ok();
    let since = Instant::now();
    let mut server = world.spawn(named, quick);
    if life.moment == Moment::Start {
        std::thread::sleep(world.longest.delay(&life, None));
        world.strike(&server, life, None);
        let end = world.gone(draw, server, life, left, tally);
        return Ended { from: possible, during: During::Start { named }, end };
    }
    tally.worst = tally.worst.max(world.stable_answers(&server, since));
    server.greeted();
    let possible = rule::started(&possible, named, alone);
    let possible = if quick { rule::maybe_well(&possible) } else { possible };
    let mut stands = vec![world.stands(&server, &possible, what)];
    tally.refusals.follow(world);
    for _ in 0..life.orders {
        if draw.chance(30) {
            let chat = world.chat("", "What is 7 plus 5?");
            let (code, text) = server.http("POST", "/v1/chat/completions", Some(&chat));
            assert_eq!(code, 200, "{what}: {text}");
        }
        let order = plan::order(draw, &stands[0]);
        stands = granted(world, &server, order, &stands, tally, what);
        if quick {
            stands = rule::maybe_well(&stands);
        }
    }
    if quick && draw.chance(60) {
        stands = vec![world.stands(&server, &rule::at_rest(&stands), what)];
    }
    let (from, during) = match life.moment {
        Moment::Order => under_way(world, draw, (&server, life), stands, tally, what),
        _ => {
            world.strike(&server, life, stands[0].trial);
            (stands, During::Nothing)
        }
    };
    let end = world.gone(draw, server, life, left, tally);
    Ended { from, during, end }
}

/// Gives an order and checks the response against the rule; returns the new state.
fn granted(
    world: &mut World,
    server: &Process,
    order: Order,
    stands: &[Stand],
    tally: &mut Tally,
    what: &str,
) -> Vec<Stand> {
    let (path, body) = request(world, order, &server.status()["revision"]);
    let (code, text) = server.http("POST", path, Some(&body));
    world.mark();
    let after: Option<Vec<Stand>> = stands.iter().map(|stand| stand.after(order)).collect();
    assert_eq!(code == 200, after.is_some(), "{what}: {order:?} at {stands:?}: {code} {text}");
    tally.acknowledged += u64::from(code == 200);
    after.unwrap_or_else(|| stands.to_vec())
}

/// Ends a server while an order is in progress.
fn under_way(
    world: &mut World,
    draw: &mut Draw,
    (server, life): (&Process, Life),
    stands: Vec<Stand>,
    tally: &mut Tally,
    what: &str,
) -> (Vec<Stand>, During) {
    let order = plan::order(draw, &stands[0]);
    let (path, body) = request(world, order, &server.status()["revision"]);
    let answer = std::thread::scope(|scope| {
        let asked = scope.spawn(|| server.try_http("POST", path, Some(&body)));
        std::thread::sleep(world.longest.delay(&life, Some(order)));
        world.strike(server, life, stands[0].trial);
        asked.join().expect("no panic")
    });
    let after: Option<Vec<Stand>> = stands.iter().map(|stand| stand.after(order)).collect();
    match (answer, after) {
        (Some((200, _)), Some(after)) => {
            world.mark();
            tally.acknowledged += 1;
            (after, During::Nothing)
        }
        (Some((200, text)), None) => panic!("{what}: {order:?} at {stands:?} was granted: {text}"),
        (Some((code, text)), Some(_)) if life.end != End::Orderly => {
            panic!("{what}: {order:?} at {stands:?} was refused: {code} {text}")
        }
        (Some(_), None) => (stands, During::Nothing),
        (None | Some(_), _) => {
            tally.pending += 1;
            (stands, During::Order(order))
        }
    }
}

impl World {
    /// Makes the server end in this way.
    fn strike(&self, server: &Process, life: Life, trial: Option<Trial>) {
        if let (true, Some(poison), Some(_)) = (life.by_canary, self.poison, trial) {
            let chat = self.chat("@canary", poison);
            let answer = server.try_http("POST", "/v1/chat/completions", Some(&chat));
            assert!(answer.is_none(), "the canary aborts: {answer:?}");
            return;
        }
        let signal = match life.end {
            End::Orderly => "TERM".to_owned(),
            End::Signal(number) => number.to_string(),
            End::OutOfMemory if self.starves() && life.moment != Moment::Start => {
                return self.starve(server);
            }
            End::OtherBoot | End::OutOfMemory | End::Killed => "KILL".to_owned(),
        };
        send_signal(server.id(), &signal);
    }

    fn starves(&self) -> bool {
        self.starving && self.group.is_some()
    }

    /// Makes the kernel kill a server because it is out of memory.
    fn starve(&self, server: &Process) {
        let group = self.group.as_ref().expect("a memory cgroup");
        let before = group.kills();
        group.starve();
        let prompt = "one two three ".repeat(250_000);
        let ask = json!({"model": self.name, "prompt": prompt, "max_tokens": 1});
        wait_for("the kill", || {
            let _ = server.try_http("POST", "/v1/completions", Some(&ask));
            (group.kills() > before).then_some(())
        });
        // The kernel may have killed a process that renders templates.
        send_signal(server.id(), "KILL");
    }

    /// Waits until a process is gone and changes its files as such an end would; returns how it ended, as far
    /// as can be known.
    fn gone(
        &mut self,
        draw: &mut Draw,
        server: Process,
        Life { end, moment, .. }: Life,
        left: Option<Vec<u8>>,
        tally: &mut Tally,
    ) -> End {
        let again = match end {
            // Before the server has installed its own handler, Rust's handler returns, and the fault happens
            // again.
            End::Signal(number @ (7 | 11)) if moment == Moment::Start => Some(number),
            _ => None,
        };
        server.end_with(again);
        if let Some(group) = &self.group {
            group.relieve();
        }
        let path = self.beside(".life");
        let found = fs::read(&path).ok();
        let Some(bytes) = found.filter(|found| left.as_ref() != Some(found)) else {
            // It had not yet created a file of its own.
            return end_without_a_file(end);
        };
        match end {
            End::OtherBoot => {
                lose_life(draw, &path, &bytes);
                // What a start has synced and relies on is not known here.
                let cut = moment != Moment::Start && self.lose_log(draw);
                tally.log_cut += u64::from(cut);
                End::OtherBoot
            }
            End::OutOfMemory if !self.starves() || moment == Moment::Start => {
                match killed_once_less(&bytes) {
                    Some(bytes) => {
                        fs::write(&path, bytes).expect("written");
                        End::OutOfMemory
                    }
                    None => End::Killed,
                }
            }
            End::OutOfMemory | End::Orderly | End::Signal(_) | End::Killed => end,
        }
    }

    /// After a power cut, the log contains what was synced, and any part of what was not.
    fn lose_log(&self, draw: &mut Draw) -> bool {
        let path = self.beside("-wal");
        let length = fs::metadata(&path).map_or(0, |file| file.len());
        let (safe, main_file) = self.safe;
        if length <= safe || main_file != self.main_file() {
            return false;
        }
        let file = fs::File::options().write(true).open(&path).expect("it opens");
        file.set_len(safe + draw.below(length - safe + 1)).expect("cut");
        let _ = fs::remove_file(self.beside("-shm"));
        true
    }
}

/// A process that is killed before it has created a file leaves no trace; it is like any other kill.
fn end_without_a_file(end: End) -> End {
    match end {
        End::Orderly => End::Orderly,
        _ => End::Killed,
    }
}

/// What another boot finds of a file that was never synced: all of it, an empty file, or no file.
fn lose_life(draw: &mut Draw, path: &Path, bytes: &[u8]) {
    match draw.below(3) {
        0 => fs::remove_file(path).expect("removed"),
        1 => fs::write(path, "").expect("written"),
        _ => {
            let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot");
            let text = String::from_utf8_lossy(bytes).replace(boot.trim(), "another");
            fs::write(path, text).expect("written");
        }
    }
}

/// The file as if its process had seen one kill less in its memory cgroup than there were.
fn killed_once_less(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let (signal, note) = text.split_once('\n')?;
    let mut note: Value = serde_json::from_str(note).ok()?;
    let count = note["kills"]["count"].as_u64()?;
    note["kills"]["count"] = json!(count.checked_sub(1)?);
    Some(format!("{signal}\n{note}\n"))
}

/// Checks that the chain is valid.
fn intact(world: &World, what: &str) {
    let reader = match Reader::open(&world.ledger()) {
        Ok(reader) => reader,
        // No server has created it yet.
        Err(_) if world.safe.1.is_none() => return,
        Err(error) => panic!("{what}: {error}"),
    };
    let verification = reader.verify(None).expect("it reads");
    assert_eq!(verification.problem, None, "{what}");
}

/// Checks that every rollout replays to the recorded decisions.
fn replayed(world: &World) {
    let reader = Reader::open(&world.ledger()).expect("a ledger");
    for recorded in reader.rollouts().expect("they read") {
        let (_, comparison) = reader.replay(&recorded).expect("it reads");
        assert_eq!(comparison.difference, None, "{}", recorded.opening.rollout);
    }
}

/// Counts from the ledger how many deaths it took until versions were refused; it must never be more than
/// two.
#[derive(Debug, Default)]
struct Refusals {
    seen: u64,
    ends: BTreeMap<Version, usize>,
    /// The version blamed for the last death.
    last: Option<Version>,
    on_trial: Option<Version>,
    /// Versions refused after one death, and after two.
    refused: [u64; 2],
}

impl Refusals {
    fn follow(&mut self, world: &World) {
        let reader = Reader::open(&world.ledger()).expect("a ledger");
        let known = |digest: &str| world.known(digest).expect("a model of the test");
        for kept in reader.entries(self.seen, usize::MAX).expect("they read") {
            self.seen = kept.seq;
            match kept.entry {
                Entry::UncleanEnd { how, canary: Some(canary), .. }
                    if how != HowEnded::OtherBoot =>
                {
                    let version = known(&canary.digest);
                    *self.ends.entry(version).or_default() += 1;
                    assert!(self.ends[&version] <= 2, "{version} ended {:?}", self.ends);
                    self.last = Some(version);
                }
                Entry::Decision(decision) if decision.text.contains("the server died while") => {
                    let version = self.last.expect("an end before");
                    self.refuse(version);
                }
                Entry::RolloutOpened(opening) => {
                    self.on_trial = Some(known(&opening.canary.digest))
                }
                Entry::Decision(decision) if rejects(decision.kind) => {
                    self.ends.remove(&self.on_trial.expect("a rollout"));
                }
                Entry::Rejected { digest, .. } => self.refuse(known(&digest)),
                Entry::CanaryWell { digest } | Entry::Pardoned { digest, .. } => {
                    self.ends.remove(&known(&digest));
                }
                _ => {}
            }
        }
    }

    fn refuse(&mut self, version: Version) {
        let ends = self.ends.remove(&version).expect("its ends");
        self.refused[ends - 1] += 1;
    }
}

fn rejects(kind: DecisionKind) -> bool {
    matches!(kind, DecisionKind::RolledBack { .. } | DecisionKind::Undone)
}
