//! Tests: configs as typed, and as resolved.

use super::values::parse_bytes;
use super::*;
use crate::rollout::{Advance, ConfirmAt, EvidenceRule, Mode, Weight};

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("/base")).map_err(|e| e.to_string())
}

#[test]
fn a_full_file_is_read() {
    let config = parse(
        r#"
        [server]
        listen = "127.0.0.1:9000"
        max_body = "1MiB"
        first_token_timeout = "5s"
        [model]
        name = "qwen"
        stable = "v1"
        canary = "/abs/v2"
        [engine]
        max_running = 8
        kv_memory = "256MB"
        prefix_cache = false
        [rollout]
        steps = [10, 100]
        bake = "90s"
        max_error_ratio = 2.0
        "#,
    )
    .unwrap();
    assert_eq!(config.listen.port(), 9000);
    assert_eq!((config.max_body, config.model.as_str()), (1 << 20, "qwen"));
    assert_eq!(config.timeouts.first_token, Duration::from_secs(5));
    assert_eq!(config.stable, Path::new("/base/v1"));
    assert_eq!(config.canary.as_deref(), Some(Path::new("/abs/v2")));
    assert_eq!((config.engine.scheduler.max_running, config.engine.kv_memory), (8, 256_000_000));
    assert!(!config.engine.scheduler.prefix_cache);
    assert_eq!(config.policy.bake, Duration::from_secs(90));
    assert_eq!(config.policy.steps.len(), 2);
}

#[test]
fn an_empty_file_means_the_defaults() {
    let config = parse("[model]\nstable = \"my-model\"").unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.operator, OperatorListen::Default);
    assert_eq!(config.sockets.keep_alive, Duration::from_secs(75));
    assert_eq!(config.model, "my-model");
    assert_eq!(config.policy, Policy::default());
    assert_eq!((config.canary, config.allow_less), (None, false));
    assert!(config.engine.scheduler.prefix_cache);
}

#[test]
fn a_kv_cache_is_named() {
    let named = |name: &str| parse(&format!("[engine]\nkv_cache = \"{name}\""));
    for name in ["auto", "f16", "f32", "i8", "fp8"] {
        assert_eq!(named(name).unwrap().engine.kv_cache.name(), name);
    }
    let error = named("fp4").unwrap_err();
    assert!(error.contains("engine.kv_cache") && error.contains("`i8`, `fp8`"), "{error}");
}

#[test]
fn plans_are_lists_or_names() {
    let policy = |text: &str| parse(&format!("[rollout]\n{text}\n")).map(|config| config.policy);
    assert_eq!(policy("steps = \"double\"").unwrap().steps, Policy::double_steps());
    assert_eq!(policy("advance = \"manual\"").unwrap().advance, Advance::Manual);
    assert_eq!(policy("mode = \"strict\"").unwrap().mode, Mode::Strict);
    assert_eq!(policy("evidence = \"none\"").unwrap().evidence, EvidenceRule::None);
    let half = Weight::new(50).unwrap();
    let confirm = policy("confirm = [\"50\", \"promote\"]").unwrap().confirm;
    assert_eq!(confirm, [ConfirmAt::Before(half), ConfirmAt::Promote]);
}

#[test]
fn a_lesser_canary_is_allowed_by_name() {
    let allowed = |text: &str| parse(&format!("[rollout]\n{text}\n")).map(|c| c.allow_less);
    assert!(allowed("allow_less = true").unwrap());
    assert!(!allowed("allow_less = false").unwrap());
    assert!(allowed("allow_less = \"yes\"").is_err());
}

#[test]
fn the_ledger_stands_beside_the_file_unless_told_otherwise() {
    let ledger = |text: &str| parse(text).unwrap().ledger.map(|ledger| ledger.path);
    assert_eq!(ledger(""), Some(PathBuf::from("/base/serin.ledger")));
    assert_eq!(ledger("[ledger]\npath = \"/abs/l\"\n"), Some(PathBuf::from("/abs/l")));
    assert_eq!(ledger("[ledger]\nenabled = false\n"), None);
    assert_eq!(Config::demo().unwrap().ledger, None);
}

#[test]
fn each_mistake_is_named() {
    let cases = [
        ("[rolout]\nbake = \"1m\"", "rolout"),
        ("[rollout]\nbaek = \"1m\"", "baek"),
        ("[rollout]\nbake = 15", "unit"),
        ("[rollout]\nbake = \"15 lightyears\"", "15 lightyears"),
        ("[rollout]\nsteps = [5, 250]", "250"),
        ("[rollout]\nsteps = [50, 25, 100]", "rollout"),
        ("[rollout]\nsteps = \"triple\"", "double"),
        ("[rollout]\nadvance = \"later\"", "later"),
        ("[rollout]\nconfirm = [\"soon\"]", "soon"),
        ("[rollout]\nconfirm = [\"51\"]", "51"),
        ("[rollout]\nalpha = 0", "alpha"),
        ("[rollout]\nshadow = 2.0", "shadow"),
        ("[rollout]\nmax_error_ratio = nan", "max_error_ratio"),
        ("[server]\nlisten = \"localhost\"", "server.listen"),
        ("[server]\nmax_body = \"12 parsecs\"", "12 parsecs"),
        ("[server]\nrequest_timeout = \"0s\"", "request_timeout"),
        ("[engine]\nmax_running = 0", "max_running"),
        ("[engine]\nmax_running = 64\nmax_batch_tokens = 63", "max_batch_tokens"),
        ("[engine]\ncanary_priority = 1.5", "canary_priority"),
        ("[engine]\ncanary_priority = 0", "canary_priority"),
        ("[engine]\nmax_running = -1", "line 2"),
        ("[engine]\nblock_size = 4611686018427387904", "block_size"),
        ("[server]\nmax_body = 0", "max_body"),
        ("[server]\nmax_connections = 9223372036854775807", "max_connections"),
        ("[server]\ncors_origins = [\"https://a.example/\"]", "server.cors_origins"),
        ("[server]\ncors_origins = [\"a.example\"]", "server.cors_origins"),
        ("[server]\ntrusted_proxies = [\"10.0.0.0/33\"]", "server.trusted_proxies"),
        ("[server]\nstable_for.headers = [\"no header\"]", "server.stable_for.headers"),
        ("[server]\nstable_for.metadata = [\"\"]", "server.stable_for.metadata"),
        ("[server]\nrecord_prompts_max = \"1MiB\"", "server.record_prompts_max"),
        ("[server]\nrecord_prompts = \"p\"\nrecord_prompts_max = 0", "server.record_prompts_max"),
        ("[server]\nkeep_alive = \"0s\"", "server.keep_alive"),
        ("[operator]\nlisten = \"0.0.0.0:8081\"", "operator.listen"),
        ("[access]\nkey = \"keys.toml\"", "key"),
        ("[model]\nname = \"a@b\"", "model.name"),
        ("[model]\nstabel = \"x\"", "line 2: unknown field `stabel`"),
        ("\n\n[rollout]\n\nbake = 15", "line 5"),
        ("this is not toml", "line 1"),
    ];
    for (text, expected) in cases {
        let text = format!("{text}\n");
        let error = parse(&text).unwrap_err();
        assert!(error.contains(expected), "{text} gave: {error}");
        assert!(!error.contains('\n'), "one line: {error}");
    }
}

#[test]
fn sizes_know_decimal_and_binary_units() {
    assert_eq!(parse_bytes("1.5GiB"), Some(3 << 29));
    assert_eq!(parse_bytes("2 MB"), Some(2_000_000));
    assert_eq!(parse_bytes("77"), Some(77));
    for bad in ["", "MB", "1 XB", "-1", "1e99 GB"] {
        assert_eq!(parse_bytes(bad), None, "{bad}");
    }
}

#[test]
fn a_listener_that_is_open_to_others_needs_keys_or_a_word() {
    let check = |text: &str| parse(text).unwrap().check_exposure().map_err(|e| e.to_string());
    for near in ["127.0.0.1:8080", "127.8.8.8:1", "[::1]:8080"] {
        assert!(check(&format!("[server]\nlisten = \"{near}\"")).is_ok(), "{near}");
    }
    for far in ["0.0.0.0:8080", "[::]:8080", "10.0.0.1:80"] {
        let listen = format!("[server]\nlisten = \"{far}\"\n");
        let error = check(&listen).unwrap_err();
        for way in ["server.listen", "serin key new", "allow_open = true"] {
            assert!(error.contains(way), "{error}");
        }
        assert!(check(&format!("{listen}[access]\nkeys = \"keys.toml\"")).is_ok());
        assert!(check(&format!("{listen}[access]\nallow_open = true")).is_ok());
    }
    let keys = "[operator]\nlisten = \"0.0.0.0:8081\"\n[access]\nkeys = \"k.toml\"";
    let config = parse(keys).unwrap();
    assert_eq!(config.access.keys.as_deref(), Some(Path::new("/base/k.toml")));
    assert_eq!(config.operator, OperatorListen::At("0.0.0.0:8081".parse().unwrap()));
    assert!(parse("[operator]\nlisten = \"0.0.0.0:8081\"\n[access]\nallow_open = true").is_err());
}
