//! Tests: references, the choice of files, and downloads from a fake hub with faults.

use super::testing::{COMMIT, Files, serve, sha256};
use super::*;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

fn reference(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

fn weights() -> Vec<u8> {
    (0..300_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn files() -> Files {
    let mut files = Files::default();
    for (name, content) in [
        ("config.json", b"{}".to_vec()),
        ("tokenizer.json", b"{\"a\":1}".to_vec()),
        ("README.md", b"words".to_vec()),
        ("model.safetensors", weights()),
        ("../evil", b"x".to_vec()),
    ] {
        files.files.insert(name.into(), content);
    }
    files
}

async fn hub(files: Files, cache: &Path) -> (Hub, Arc<Files>) {
    let files = Arc::new(files);
    let endpoint = serve(files.clone()).await;
    (Hub::new(endpoint, None, cache.into(), false).unwrap(), files)
}

fn requests(files: &Files, method: &str, name: &str) -> Vec<String> {
    let seen = files.seen.lock();
    let wanted =
        |head: &&String| head.starts_with(method) && head.lines().next().unwrap().contains(name);
    seen.iter().filter(wanted).cloned().collect()
}

#[test]
fn references_are_taken_apart_and_checked() {
    let whole = reference("hf:org/repo-1.5:sub/x.Q4_K_M.gguf@refs/pr/1");
    assert_eq!((whole.repo.as_str(), whole.revision.as_str()), ("org/repo-1.5", "refs/pr/1"));
    assert_eq!(whole.file.as_deref(), Some("sub/x.Q4_K_M.gguf"));
    assert_eq!(reference("hf:a/b").revision, "main");
    for bad in [
        "hf:a",
        "hf:a/b/c",
        "hf:../b",
        "hf:a/..",
        "hf:a/b:../c",
        "hf:a/b:/c",
        "hf:a/b@../x",
        "hf:a/b:x y",
        "a/b",
        "hf:a/b@",
    ] {
        let error = Reference::parse(bad).unwrap_err().to_string();
        assert!(error.contains(bad) && error.contains("hf:ORGANISATION"), "{error}");
    }
    assert!(is_reference(Path::new("hf:a/b")) && !is_reference(Path::new("models/hf")));
}

#[test]
fn only_needed_files_are_chosen() {
    let choose = |text: &str, names: &[&str]| {
        let names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
        choose::files(&reference(text), &names)
    };
    let both = [
        "config.json",
        "x.bin",
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "consolidated.safetensors",
    ];
    assert_eq!(choose("hf:a/b", &both).unwrap().names, ["config.json", "model.safetensors"]);
    let shards = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ];
    assert_eq!(choose("hf:a/b", &shards).unwrap().names.len(), 3);
    let ggufs = ["m-Q4_K_M.gguf", "m-Q8_0.gguf", "config.json"];
    assert_eq!(choose("hf:a/b:q8_0", &ggufs).unwrap().single.as_deref(), Some("m-Q8_0.gguf"));
    let many = choose("hf:a/b", &ggufs).unwrap_err().to_string();
    assert!(many.contains("m-Q4_K_M.gguf, m-Q8_0.gguf"), "{many}");
    assert!(choose("hf:a/b:Q5", &ggufs).unwrap_err().to_string().contains("no file Q5"));
    let parts = [
        "big/m-Q8_0-00001-of-00002.gguf",
        "big/m-Q8_0-00002-of-00002.gguf",
        "m-Q4_K_M-00001-of-00002.gguf",
        "m-Q4_K_M.gguf",
    ];
    for named in ["q8_0", "big/m-Q8_0-00001-of-00002.gguf", "big/m-Q8_0-00002-of-00002.gguf"] {
        let files = choose(&format!("hf:a/b:{named}"), &parts).unwrap();
        assert_eq!(files.names, parts[..2], "{named}");
        assert_eq!(files.single.as_deref(), Some(parts[0]), "{named}");
    }
    let files = choose("hf:a/b", &parts[..2]).unwrap();
    assert_eq!((files.names.len(), files.single.as_deref()), (2, Some(parts[0])));
    let error = choose("hf:a/b:m-Q4_K_M-00001-of-00002.gguf", &parts).unwrap_err().to_string();
    assert!(error.contains("m-Q4_K_M-00002-of-00002.gguf is missing"), "{error}");
    assert_eq!(choose("hf:a/b:m-Q4_K_M.gguf", &parts).unwrap().names, ["m-Q4_K_M.gguf"]);
    assert!(choose("hf:a/b", &["x.bin"]).unwrap_err().to_string().contains("neither"));
}

#[tokio::test]
async fn a_folder_is_downloaded_once_in_hugging_faces_layout() {
    let dir = tempfile::tempdir().unwrap();
    let (hub, files) = hub(files(), dir.path()).await;
    let wanted = reference("hf:org/repo");
    let path = hub.fetch(&wanted).await.unwrap();
    let repo = dir.path().join("models--org--repo");
    assert_eq!(path, repo.join("snapshots").join(COMMIT));
    assert_eq!(std::fs::read(path.join("model.safetensors")).unwrap(), weights());
    assert_eq!(std::fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(std::fs::read(repo.join("blobs").join(sha256(&weights()))).unwrap(), weights());
    assert!(!path.join("README.md").exists() && !dir.path().join("evil").exists());
    assert_eq!(name_of(&path).unwrap(), "repo-01234567");
    let before = files.seen.lock().len();
    assert_eq!(hub.fetch(&wanted).await.unwrap(), path);
    assert_eq!(files.seen.lock().len(), before + 1, "only the listing is asked for again");
    // Without a network, cached files are used, and missing ones are named.
    let offline = Hub::new("http://127.0.0.1:1".into(), None, dir.path().into(), true).unwrap();
    assert_eq!(offline.fetch(&wanted).await.unwrap(), path);
    let error = offline.fetch(&reference("hf:org/other")).await.unwrap_err();
    assert!(matches!(error, HubError::Offline { .. }), "{error}");
    let unreachable =
        Hub::new("http://127.0.0.1:1".into(), None, dir.path().into(), false).unwrap();
    assert_eq!(unreachable.fetch(&wanted).await.unwrap(), path);
    let error = unreachable.fetch(&reference("hf:org/other")).await.unwrap_err().to_string();
    assert!(error.contains("cannot reach") && error.contains("HF_HUB_OFFLINE"), "{error}");
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_broke() {
    let dir = tempfile::tempdir().unwrap();
    let mut broken = files();
    (broken.cut_after, broken.cuts) = (100_000, AtomicUsize::new(2));
    let (hub, files) = hub(broken, dir.path()).await;
    let path = hub.fetch(&reference("hf:org/repo")).await.unwrap();
    assert_eq!(std::fs::read(path.join("model.safetensors")).unwrap(), weights());
    let asked = requests(&files, "GET", "model.safetensors");
    assert_eq!(asked.len(), 3);
    let ranges: Vec<bool> =
        asked.iter().map(|head| head.to_lowercase().contains("range: bytes=")).collect();
    assert_eq!(ranges, [false, true, true]);
}

#[tokio::test]
async fn a_process_later_goes_on_too_and_a_server_without_ranges_starts_over() {
    for no_ranges in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (hub, files) = hub(Files { no_ranges, ..files() }, dir.path()).await;
        let blobs = dir.path().join("models--org--repo/blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        let partial = blobs.join(format!("{}.incomplete", sha256(&weights())));
        std::fs::write(&partial, &weights()[..123_456]).unwrap();
        let path = hub.fetch(&reference("hf:org/repo")).await.unwrap();
        assert_eq!(std::fs::read(path.join("model.safetensors")).unwrap(), weights());
        let asked = requests(&files, "GET", "model.safetensors");
        assert!(asked[0].to_lowercase().contains("range: bytes=123456-"), "{asked:?}");
        assert!(!partial.exists());
    }
}

#[tokio::test]
async fn a_wrong_hash_is_refused_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let (hub, _) = hub(Files { lie: true, ..files() }, dir.path()).await;
    let error = hub.fetch(&reference("hf:org/repo")).await.unwrap_err();
    assert!(
        matches!(&error, HubError::Hash { what, .. } if what == "org/repo/model.safetensors"),
        "{error}"
    );
    let blobs = dir.path().join("models--org--repo/blobs");
    let left: Vec<_> = std::fs::read_dir(blobs).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "config and tokenizer only: {left:?}");
    let snapshot = dir.path().join("models--org--repo/snapshots").join(COMMIT);
    assert!(!snapshot.join("model.safetensors").exists());
}

#[tokio::test]
async fn the_token_goes_to_the_hub_and_not_to_its_storage() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Arc::new(files());
    let elsewhere = serve(storage.clone()).await.replace("127.0.0.1", "localhost");
    let files = Arc::new(Files { token: Some("secret"), storage: Some(elsewhere), ..files() });
    let endpoint = serve(files.clone()).await;
    let without = Hub::new(endpoint.clone(), None, dir.path().into(), false).unwrap();
    let error = without.fetch(&reference("hf:org/repo")).await.unwrap_err().to_string();
    assert!(error.contains("HF_TOKEN") && error.contains("licence"), "{error}");
    let hub = Hub::new(endpoint, Some("secret".into()), dir.path().into(), false).unwrap();
    let path = hub.fetch(&reference("hf:org/repo")).await.unwrap();
    assert_eq!(std::fs::read(path.join("model.safetensors")).unwrap(), weights());
    let seen = storage.seen.lock();
    assert_eq!(seen.len(), 1);
    assert!(!seen[0].to_lowercase().contains("authorization"), "{}", seen[0]);
}

#[tokio::test]
async fn what_does_not_exist_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (hub, _) = hub(files(), dir.path()).await;
    let error = hub.fetch(&reference("hf:org/nothing")).await.unwrap_err().to_string();
    assert!(
        error.contains("org/nothing") && error.contains("not found") && error.contains("HF_TOKEN"),
        "{error}"
    );
    let error = hub.fetch(&reference("hf:org/repo:no.gguf")).await.unwrap_err().to_string();
    assert!(error.contains("no.gguf"), "{error}");
}

#[tokio::test]
async fn two_downloads_of_one_file_do_not_write_into_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (hub, files) = hub(files(), dir.path()).await;
    let reference = reference("hf:org/repo");
    let sum = sha256(&weights());
    let lock = hub.cache.lock(&reference, &sum).await.unwrap();
    let wait = tokio::time::timeout(std::time::Duration::from_millis(300), hub.fetch(&reference));
    assert!(wait.await.is_err(), "it waits for the other process");
    assert!(requests(&files, "GET", "model.safetensors").is_empty());
    std::fs::write(hub.cache.blob(&reference, &sum), weights()).unwrap();
    drop(lock);
    let folder = hub.fetch(&reference).await.unwrap();
    assert_eq!(std::fs::read(folder.join("model.safetensors")).unwrap(), weights());
    assert!(requests(&files, "GET", "model.safetensors").is_empty(), "the other one's is used");
}
