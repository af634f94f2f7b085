//! What identifies a version: a digest of every file that shapes its replies.
//!
//! The digest has the form `v2:ALL:WEIGHTS`. WEIGHTS is the digest of configuration and weights; computing it reads the
//! large files once. ALL is a SHA-256 over WEIGHTS and over the name and content of each other file that was read:
//! tokenizer, chat templates, generation settings. A digest without `v2:` is from an earlier version of serin. It is
//! WEIGHTS alone, so it does not cover these other files. Ledgers contain both forms, so they are compared here.
//!
//! It reads no files.

use crate::text::{FileRead, GenerationDefaults};
use sha2::{Digest, Sha256};

const FORM: &str = "v2:";
/// Digits that tell versions apart.
const DIGITS: usize = 12;

/// The digest of a version, by that of its weights and by the other files that it was read from.
pub(super) fn digest(weights: &str, files: &[FileRead]) -> String {
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    add(weights.as_bytes());
    for FileRead { name, sha256 } in files {
        add(name.as_bytes());
        add(sha256);
    }
    let all: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{FORM}{all}:{weights}")
}

/// The digest of a version with sampling defaults that are not its own.
pub(super) fn inheriting(own: &str, defaults: &GenerationDefaults) -> String {
    let (all, weights) = parts(own);
    let text = format!("{} inherits {}", all.unwrap_or_default(), as_json(defaults));
    let all: String =
        Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{FORM}{all}:{weights}")
}

/// Sampling defaults as the ledger keeps them.
pub(super) fn as_json(defaults: &GenerationDefaults) -> String {
    // Numbers and flags: nothing that could not be written.
    serde_json::to_string(defaults).unwrap_or_default()
}

/// The digest of everything, if it is known, and that of the weights.
fn parts(digest: &str) -> (Option<&str>, &str) {
    let parts = digest.strip_prefix(FORM).and_then(|rest| rest.split_once(':'));
    parts.map_or((None, digest), |(all, weights)| (Some(all), weights))
}

/// The first digits, for people.
pub(super) fn short(digest: &str) -> String {
    let (all, weights) = parts(digest);
    all.unwrap_or(weights).chars().take(DIGITS).collect()
}

/// Whether two digests are of the same version, as far as both can tell: one of an earlier serin knows only
/// the weights.
pub(super) fn same(one: &str, other: &str) -> bool {
    differs(one, other).is_none()
}

/// In what two digests differ; `None` if they are of the same version, as far as both can tell.
pub(super) fn differs(one: &str, other: &str) -> Option<&'static str> {
    let (one, other) = (parts(one), parts(other));
    if one.1 != other.1 {
        return Some("its configuration or its weights have changed");
    }
    match (one.0, other.0) {
        (Some(one), Some(other)) if one != other => Some(
            "its weights are the same, but its tokenizer, its chat template or its generation settings have changed",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, content: u8) -> FileRead {
        FileRead { name: name.to_owned(), sha256: [content; 32] }
    }

    #[test]
    fn names_and_contents_of_all_files_count() {
        let one = digest("w", &[file("a", 1), file("b", 2)]);
        let others = [
            digest("x", &[file("a", 1), file("b", 2)]),
            digest("w", &[file("a", 2), file("b", 2)]),
            digest("w", &[file("a", 1), file("c", 2)]),
            digest("w", &[file("a", 1)]),
            digest("w", &[]),
        ];
        assert_eq!(one, digest("w", &[file("a", 1), file("b", 2)]));
        for other in others {
            assert!(!same(&one, &other), "{other}");
            assert_ne!(short(&one), short(&other));
        }
    }

    #[test]
    fn digests_of_an_earlier_form_are_those_of_the_weights() {
        let (broken, mended) = (digest("w", &[file("t", 1)]), digest("w", &[file("t", 2)]));
        assert!(same("w", &broken) && same(&mended, "w") && same("w", "w"));
        assert!(!same("v", &broken) && !same("v", "w"));
        assert!(!same(&broken, &mended), "two new ones are compared in full");
        assert!(differs(&broken, &mended).unwrap().contains("weights are the same"));
        assert!(differs("v", &mended).unwrap().contains("configuration"));
        assert_eq!(short("0123456789abcdef"), "0123456789ab");
    }
}
