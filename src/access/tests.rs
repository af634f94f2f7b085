//! Tests: keys files, reloading, and which keys are accepted.

use super::*;
use jiff::Timestamp;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

fn asked(name: &str) -> NewKey {
    let scopes = vec![Scope::Inference, Scope::Metrics];
    let limits = KeyLimits { requests_per_minute: Some(60), ..KeyLimits::default() };
    NewKey { name: name.to_owned(), scopes, limits, expires: None }
}

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn file() -> (tempfile::TempDir, KeysFile) {
    let folder = tempfile::tempdir().unwrap();
    let file = KeysFile::at(folder.path().join("keys.toml"));
    (folder, file)
}

#[test]
fn a_key_that_is_made_is_found_by_its_secret_and_by_nothing_else() {
    let (_folder, mut file) = file();
    let (key, secret) = file.add(asked("chat"), ([1; 4], [7; 32]), now()).unwrap();
    assert!(secret.reveal().starts_with("sk-serin-") && secret.reveal().len() == 9 + 43);
    let text = fs::read_to_string(file.path()).unwrap();
    assert!(!text.contains(secret.reveal()) && text.contains("chat"), "{text}");
    assert_eq!(fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
    let keys = file.read().unwrap();
    assert_eq!(*keys.find(secret.reveal().as_bytes()).unwrap(), key);
    let shown = secret.reveal();
    for wrong in
        ["", "sk-serin-", &shown[1..], &shown[..50], &shown.to_uppercase(), &key.hash.hex()]
    {
        assert!(keys.find(wrong.as_bytes()).is_none(), "{wrong}");
    }
    assert_eq!(format!("{secret:?}"), "Secret(..)");
}

#[test]
fn comments_and_other_keys_survive_new_keys_and_revoked_ones() {
    let (_folder, mut file) = file();
    file.add(asked("one"), ([1; 4], [1; 32]), now()).unwrap();
    let text = fs::read_to_string(file.path()).unwrap();
    let noted = text.replace("name = \"one\"", "name = \"one\" # of the web team");
    fs::write(file.path(), noted).unwrap();
    file.add(asked("two"), ([2; 4], [2; 32]), now()).unwrap();
    file.add(asked("three"), ([3; 4], [3; 32]), now()).unwrap();
    file.remove("02020202").unwrap();
    file.add(asked("four"), ([4; 4], [4; 32]), now()).unwrap();
    file.remove("04040404").unwrap();
    let text = fs::read_to_string(file.path()).unwrap();
    assert!(
        text.starts_with("# API keys of serin.") && text.contains("# of the web team"),
        "{text}"
    );
    let names: Vec<_> = file.read().unwrap().iter().map(|key| key.name.clone()).collect();
    assert_eq!(names, ["one", "three"]);
    let error = file.remove("02020202").unwrap_err().to_string();
    assert!(error.contains("there is no key \"02020202\""), "{error}");
    let twice = file.add(asked("again"), ([4; 4], [3; 32]), now()).unwrap_err().to_string();
    assert!(twice.contains("same sha256"), "{twice}");
    assert_eq!(file.read().unwrap().len(), 2, "a refused change changes nothing");
    for id in ["01010101", "03030303"] {
        file.remove(id).unwrap();
        let text = fs::read_to_string(file.path()).unwrap();
        assert!(text.starts_with("# API keys of serin."), "{text}");
    }
    assert!(file.read().unwrap().is_empty());
}

#[test]
fn files_that_others_may_read_and_files_with_mistakes_are_refused() {
    let (_folder, mut file) = file();
    let missing = file.read().unwrap_err().to_string();
    assert!(missing.contains("serin key new"), "{missing}");
    file.add(asked("one"), ([1; 4], [1; 32]), now()).unwrap();
    for mode in [0o644, 0o604, 0o602, 0o601] {
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        let error = file.read().unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{mode:o}: {error}");
    }
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o640)).unwrap();
    let good = fs::read_to_string(file.path()).unwrap();
    assert!(file.read().is_ok(), "a group may read it");
    for (from, to, what) in [
        ("\"inference\"", "\"root\"", "is not a scope"),
        ("[\"inference\", \"metrics\"]", "[]", "no scope"),
        ("requests_per_minute = 60", "requests_per_minute = 0", "at least 1"),
        ("requests_per_minute = 60", "requests_a_minute = 60", "unknown field"),
        ("id = \"01010101\"", "id = \"a b\"", "an id has"),
        ("sha256 = \"", "sha256 = \"0", "64 hexadecimal digits"),
        ("name = \"one\"", "name = \"\"", "a name is"),
        ("created = \"2027", "created = \"27", ""),
        ("[[key]]", "[[key", "line "),
    ] {
        let bad = good.replace(from, to);
        assert_ne!(bad, good, "{from}");
        let error = Keyring::parse(&bad).expect_err(to).to_string();
        assert!(error.contains(what), "{to}: {error}");
    }
    let twice = format!("{good}\n{}", &good[good.find("[[key]]").unwrap()..]);
    assert!(Keyring::parse(&twice).unwrap_err().to_string().contains("two keys have this id"));
}

#[test]
fn a_changed_file_is_taken_up_and_a_broken_one_keeps_the_old_keys() {
    let (_folder, mut file) = file();
    let (_, first) = file.add(asked("one"), ([1; 4], [1; 32]), now()).unwrap();
    let access = Access::with(file.read().unwrap());
    assert!(file.read_if_changed().is_none());
    let (_, second) = file.add(asked("two"), ([2; 4], [2; 32]), now()).unwrap();
    let knows = |secret: &Secret| access.identify(secret.reveal().as_bytes(), 0).is_some();
    assert!(knows(&first) && !knows(&second));
    let take_up = |file: &mut KeysFile| {
        let read = file.read_if_changed().expect("a change");
        access.take_up(read.map_err(|error| error.to_string()));
    };
    take_up(&mut file);
    assert!(knows(&first) && knows(&second));
    let good = fs::read(file.path()).unwrap();
    fs::write(file.path(), "[[key").unwrap();
    take_up(&mut file);
    assert!(knows(&first) && knows(&second), "the old keys are in force");
    let status = access.status().unwrap();
    assert!(status.keys == 2 && status.problem.unwrap().contains("line 1"), "says so");
    assert!(file.read_if_changed().is_none(), "the same mistake is reported once");
    fs::remove_file(file.path()).unwrap();
    take_up(&mut file);
    assert!(knows(&first), "a file that is gone keeps them too");
    fs::write(file.path(), &good).unwrap();
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o600)).unwrap();
    file.remove("01010101").unwrap();
    take_up(&mut file);
    assert!(!knows(&first) && knows(&second));
    assert_eq!(access.status().unwrap(), AccessStatus { keys: 1, problem: None });
}

#[test]
fn an_expired_key_is_no_key() {
    let (_folder, mut file) = file();
    let expires = Some(now());
    let (_, secret) =
        file.add(NewKey { expires, ..asked("one") }, ([1; 4], [1; 32]), now()).unwrap();
    let access = Access::with(file.read().unwrap());
    let at = |second| access.identify(secret.reveal().as_bytes(), second).is_some();
    let last = now().as_second();
    assert!(at(last - 1) && !at(last) && !at(last + 1));
}

#[test]
fn an_expiry_is_a_time_a_date_or_a_duration() {
    let at = |text: &str| parse_expiry(text, now()).map(|at| at.to_string());
    assert_eq!(at("2027-01-31").unwrap(), "2027-01-31T00:00:00Z");
    assert_eq!(at("2027-01-31T12:00:00Z").unwrap(), "2027-01-31T12:00:00Z");
    assert_eq!(parse_expiry("90d", now()).unwrap().as_second(), 1_800_000_000 + 90 * 86_400);
    for bad in ["", "soon", "-1d", "2027-13-01"] {
        assert!(at(bad).is_err(), "{bad}");
    }
}

/// A key with these limits, and an instance in which it is in force.
fn limited(limits: KeyLimits) -> (Access, Arc<Key>) {
    let (key, secret) = NewKey { limits, ..asked("one") }.make([1; 4], [1; 32], now());
    let text = file::with("", &key).unwrap();
    let access = Access::with(Keyring::parse(&text).unwrap());
    let key = access.identify(secret.reveal().as_bytes(), 0).unwrap();
    (access, key)
}

#[test]
fn a_refused_request_costs_nothing_and_the_wait_is_enough() {
    let (requests_per_minute, tokens_per_minute) = (Some(2), Some(100));
    let (access, key) =
        limited(KeyLimits { requests_per_minute, tokens_per_minute, concurrency: None });
    let start = Instant::now();
    assert!(access.admit(&key, start).is_ok() && access.admit(&key, start).is_ok());
    for _ in 0..10 {
        let refused = access.admit(&key, start).unwrap_err();
        assert_eq!(refused, Exceeded::Requests { limit: 2, wait: Duration::from_secs(30) });
    }
    access.end(&key, 0);
    access.undo(&key);
    assert_eq!(access.allowance(&key, start).requests.unwrap().remaining, 1, "undone");
    assert!(access.admit(&key, start).is_ok());
    access.end(&key, 250);
    let later = start + Duration::from_secs(60);
    let refused = access.admit(&key, later).unwrap_err();
    let Exceeded::Tokens { limit: 100, wait } = refused else { panic!("{refused:?}") };
    assert!(access.admit(&key, later + wait - Duration::from_millis(10)).is_err());
    assert!(access.admit(&key, later + wait).is_ok());
}

#[test]
fn as_many_are_under_way_as_the_limit_says() {
    let (access, key) = limited(KeyLimits { concurrency: Some(2), ..KeyLimits::default() });
    let now = Instant::now();
    assert!(access.admit(&key, now).is_ok() && access.admit(&key, now).is_ok());
    assert_eq!(access.admit(&key, now), Err(Exceeded::Concurrency { limit: 2 }));
    access.end(&key, 1_000_000);
    assert!(access.admit(&key, now).is_ok(), "tokens are not limited");
}

#[test]
fn what_a_key_has_used_survives_a_reload_and_new_limits_apply_at_once() {
    let limits = KeyLimits { requests_per_minute: Some(3), ..KeyLimits::default() };
    let (access, key) = limited(limits);
    let now = Instant::now();
    for _ in 0..3 {
        access.admit(&key, now).unwrap();
    }
    let fewer = Key {
        limits: KeyLimits {
            requests_per_minute: Some(2),
            tokens_per_minute: Some(5),
            concurrency: None,
        },
        ..(*key).clone()
    };
    access.take_up(Keyring::parse(&file::with("", &fewer).unwrap()).map_err(|e| e.to_string()));
    let refused = access.admit(&fewer, now).unwrap_err();
    assert!(matches!(refused, Exceeded::Tokens { .. } | Exceeded::Requests { limit: 2, .. }));
    access.take_up(Ok(Keyring::default()));
    access.end(&fewer, 5);
    assert!(access.shared.used.lock().is_empty(), "nothing is kept of a revoked key");
}
