//! Hostile chat templates, through the same entry point as a load: each must give an error that names the
//! exceeded limit, and must not harm this process or its memory.
//!
//! Each template comes in two variants: one is hostile at once, which a load finds; the other waits for a
//! word in a request.

use serde_json::json;
use serin::text::apart::Cancel;
use serin::text::{Chat, Codec, Templates, TextError, TextOptions};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// One test at a time, because they measure this process's memory and its children.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Far above the time that a limit of two seconds of processor time means on a busy machine.
const PATIENCE: Duration = Duration::from_secs(25);

/// What each template does, and words from the error about its limit.
const HOSTILE: [(&str, &str); 23] = [
    (
        "{% set ns = namespace(s=[]) %}{% for i in range(90000) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s }}",
        "stack",
    ),
    (
        "{% set ns = namespace(s=[]) %}{% for j in range(5) %}{% for i in range(50000) %}{% set ns.s = [ns.s] %}{% endfor %}{% endfor %}",
        "stack",
    ),
    (
        "{% set ns = namespace(s={}) %}{% for j in range(4) %}{% for i in range(50000) %}{% set ns.s = {'a': ns.s} %}{% endfor %}{% endfor %}{{ ns.s }}",
        "stack",
    ),
    (
        "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "",
    ),
    (
        "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
        "",
    ),
    (
        "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
        "",
    ),
    (
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "",
    ),
    ("{{ '%1000000000d' % 1 }}", ""),
    ("{{ '%1000000000d' | format(1) }}", ""),
    ("{{ '{:>1000000000}'.format(1) }}", ""),
    ("{{ 'x' * 1000000000 }}", ""),
    ("{{ ([1] * 1000000000) | length }}{% for x in [1] * 1000000000 %}{% endfor %}", ""),
    ("{{ 'x' | center(1000000000) }}", ""),
    ("{{ 'x\nx' | indent(1000000000) }}", ""),
    ("{% for i in range(1000000000000) %}{% endfor %}", ""),
    ("{% macro again(n) %}{{ again(n + 1) }}{% endmacro %}{{ again(0) }}", ""),
    (
        "{% macro two(n) %}{% if n %}{{ two(n - 1) }}{{ two(n - 1) }}{% endif %}{% endmacro %}{{ two(100) }}",
        "",
    ),
    (
        "{% for i in range(9999) %}{% for j in range(9999) %}{% for k in range(9999) %}{% endfor %}{% endfor %}{% endfor %}",
        "",
    ),
    ("{% for i in range(9999) %}{{ range(9999) | list | tojson }}{% endfor %}", ""),
    (
        "{% for i in range(9999) %}{% set x = range(9999) | list | sort | reverse | join(',') %}{% endfor %}",
        "",
    ),
    (
        "{% set s = 'ab' * 100000 %}{% for i in range(9999) %}{% set x = s.replace('a', 'bb') %}{% endfor %}",
        "",
    ),
    (
        "{% set s = 'ab' * 100000 %}{% for i in range(99999) %}{% set x = s.split('b') | length %}{% endfor %}",
        "",
    ),
    ("{% set s = 'x' * 100000 %}{% for i in range(9999) %}{{ s }}{% endfor %}", ""),
];

fn folder(template: &str) -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-v1/tokenizer.json");
    std::fs::copy(tokenizer, dir.path().join("tokenizer.json")).expect("a tokenizer");
    std::fs::write(dir.path().join("chat_template.jinja"), template).expect("a template");
    dir
}

fn load(template: &str) -> Result<Codec, TextError> {
    let templates = Templates::Apart(Path::new(env!("CARGO_BIN_EXE_serin")));
    let options = TextOptions { templates, ..TextOptions::default() };
    Codec::load_with(folder(template).path(), 1024, options, None)
}

fn say(codec: &Codec, word: &str) -> Result<Vec<u32>, TextError> {
    let messages = [json!({"role": "user", "content": word})];
    codec.encode_chat(&Chat { messages: &messages, ..Chat::default() }, false).map(|(ids, _)| ids)
}

/// Resident memory of this process in kilobytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).expect("a number")
}

/// Checks all of them, on two cores: each is rendered by a process of its own.
fn all_hostile(check: impl Fn(&str, &str) + Sync) {
    let (one, other) = HOSTILE.split_at(HOSTILE.len() / 2);
    let check_all =
        |some: &[(&str, &str)]| some.iter().for_each(|(what, bound)| check(what, bound));
    std::thread::scope(|scope| {
        scope.spawn(|| check_all(one));
        check_all(other);
    });
}

#[test]
fn a_load_finds_what_is_hostile_at_once() {
    let _alone = alone();
    let before = resident();
    all_hostile(|hostile, bound| {
        let begun = Instant::now();
        let error = load(hostile).err().unwrap_or_else(|| panic!("{hostile} got through"));
        let took = begun.elapsed();
        let said = error.to_string();
        println!("{:>6} ms  {hostile:.60}  {said}", took.as_millis());
        assert!(matches!(error, TextError::TemplateUnusable { .. }), "{hostile}: {error:?}");
        assert!(said.contains(bound) && said.contains("chat_template.jinja"), "{hostile}: {said}");
        assert!(took < PATIENCE, "{took:?} for {hostile}");
    });
    assert!(resident() < before + (64 << 10), "from {before} to {} KB", resident());
}

#[test]
fn a_request_that_springs_a_trap_is_the_models_error_and_the_next_is_answered() {
    let _alone = alone();
    let before = resident();
    all_hostile(|hostile, bound| {
        let trap = format!(
            "{{% if messages[0].content == 'go' %}}{hostile}{{% endif %}}{{{{ messages[0].content }}}}"
        );
        let codec = load(&trap).unwrap_or_else(|error| panic!("{hostile}: {error}"));
        let begun = Instant::now();
        let error = say(&codec, "go").err().unwrap_or_else(|| panic!("{hostile} got through"));
        assert!(!error.is_client_fault() && error.to_string().contains(bound), "{error}");
        assert!(!matches!(error, TextError::NoRenderer { .. }), "{hostile}: {error}");
        assert!(begun.elapsed() < PATIENCE, "{:?} for {hostile}", begun.elapsed());
        assert_eq!(codec.decode(&say(&codec, "hello").unwrap(), false).unwrap().trim(), "hello");
    });
    assert!(resident() < before + (64 << 10), "from {before} to {} KB", resident());
}

#[test]
fn deep_source_is_refused_and_not_run() {
    let _alone = alone();
    let parens = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
    let ifs = format!("{}x{}", "{% if 1 %}".repeat(20_000), "{% endif %}".repeat(20_000));
    let sums = format!("{{{{ 1{} }}}}", " + 1".repeat(200_000));
    let nots = format!("{{{{ {}1 }}}}", "not ".repeat(200_000));
    for source in [parens, ifs, sums, nots] {
        match load(&source) {
            Ok(codec) => assert!(say(&codec, "hello").is_ok(), "{source:.40}"),
            Err(error) => assert!(
                matches!(
                    error,
                    TextError::TemplateSyntax { .. }
                        | TextError::TemplateUnusable { .. }
                        | TextError::TemplateExhausted { .. }
                ),
                "{source:.40}: {error}"
            ),
        }
    }
}

#[test]
fn a_trial_ends_when_its_load_is_dropped() {
    let _alone = alone();
    let cancel = Cancel::default();
    let handle = cancel.handle();
    let (hostile, _) = HOSTILE[3];
    let dir = folder(hostile);
    let trial = std::thread::spawn(move || {
        let templates = Templates::Apart(Path::new(env!("CARGO_BIN_EXE_serin")));
        let options = TextOptions { templates, ..TextOptions::default() };
        Codec::load_with(dir.path(), 1024, options, Some(&handle)).map(|_| ())
    });
    drop(cancel);
    // Killed from outside; it did not exceed a limit of its own.
    let error = trial.join().expect("no panic").expect_err("it was cancelled");
    assert!(matches!(error, TextError::NoRenderer { .. }), "{error}");
}

#[test]
fn a_process_that_was_ended_while_idle_is_replaced() {
    let _alone = alone();
    let codec = load("{{ messages[0].content }}").expect("a harmless template");
    let ours = std::process::id().to_string();
    let listed = Command::new("ps").args(["-o", "pid=,args=", "--ppid", &ours]).output();
    let listed = String::from_utf8(listed.expect("ps runs").stdout).expect("text");
    let workers = listed.lines().filter(|line| line.contains("render-templates"));
    for worker in workers.filter_map(|line| line.split_whitespace().next()) {
        let _ = Command::new("kill").args(["-9", worker]).status();
    }
    assert!(say(&codec, "hello").is_ok());
}

#[test]
fn check_finds_what_serve_would_refuse() {
    let _alone = alone();
    let model = tempfile::tempdir().expect("a folder");
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-v1");
    for entry in std::fs::read_dir(from).expect("the demo model") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), model.path().join(entry.file_name())).expect("a copy");
    }
    let check = || {
        let serin =
            Command::new(env!("CARGO_BIN_EXE_serin")).arg("check").arg(model.path()).output();
        let out = serin.expect("serin runs");
        (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    assert!(check().0, "{}", check().1);
    std::fs::write(model.path().join("chat_template.jinja"), HOSTILE[0].0).expect("a template");
    let (fine, said) = check();
    assert!(!fine && said.contains("stack") && said.contains("chat_template.jinja"), "{said}");
}
