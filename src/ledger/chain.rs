//! The hash chain: each row's hash covers the row and the previous hash.
//!
//! It knows how a row is encoded for hashing, but not SQLite. The chain reveals any change to the file unless
//! all following rows are rewritten too. If someone rewrites everything to the end, the file is consistent in
//! itself. To detect that, keep the head's hash elsewhere and pass it to the verification.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A SHA-256.
pub type Hash = [u8; 32];

/// The hash before the first row.
pub(super) const GENESIS: Hash = [0; 32];

/// The kind of a row of the journal.
pub(super) const JOURNAL: &str = "journal";

/// The end of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The last row's number; 0 when there is none.
    pub seq: u64,
    /// The last row's hash.
    #[serde(with = "hex")]
    pub hash: Hash,
}

impl Head {
    pub(super) const EMPTY: Head = Head { seq: 0, hash: GENESIS };

    /// The end of the chain after one more row.
    pub(super) fn link(&self, row: &Linked<'_>) -> Head {
        let seq = self.seq + 1;
        Head { seq, hash: row.hash(&self.hash, seq) }
    }
}

/// The data that a row's hash covers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Linked<'a> {
    pub(super) at_unix_ms: i64,
    pub(super) kind: &'a str,
    pub(super) rollout: &'a str,
    pub(super) body: &'a [u8],
}

impl Linked<'_> {
    /// Each field is preceded by its length, so that no two rows have the same encoding.
    pub(super) fn hash(&self, before: &Hash, seq: u64) -> Hash {
        let mut hash = Sha256::new();
        hash.update(b"serin ledger row 1\0");
        hash.update(before);
        hash.update(seq.to_be_bytes());
        hash.update(self.at_unix_ms.to_be_bytes());
        for part in [self.kind.as_bytes(), self.rollout.as_bytes(), self.body] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}

/// Bytes as hex digits.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]).map(digit).collect()
}

fn digit(value: u8) -> char {
    char::from_digit(u32::from(value), 16).unwrap_or('?')
}

/// The hash of 64 hex digits.
pub fn from_hex(text: &str) -> Option<Hash> {
    let digits: Vec<u8> =
        text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    if digits.len() != 64 {
        return None;
    }
    let mut hash = Hash::default();
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Some(hash)
}

/// For `#[serde(with = "hex")]`.
pub(super) mod hex {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    use super::{Hash, from_hex, to_hex};

    pub(in crate::ledger) fn serialize<S: Serializer>(
        hash: &Hash,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&to_hex(hash))
    }

    pub(in crate::ledger) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Hash, D::Error> {
        let text = String::deserialize(deserializer)?;
        from_hex(&text).ok_or_else(|| D::Error::custom("not a hash of 64 hex digits"))
    }
}
