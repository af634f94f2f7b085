//! GGUF files built byte by byte, for tests: valid ones and hostile ones.

use crate::device::Kind;

/// One tensor: name, dimensions as the file has them (innermost first), kind, bytes.
pub(super) type Made = (String, Vec<u64>, u32, Vec<u8>);

/// A metadata entry: key, type number, encoded value.
pub(super) type Entry = (String, u32, Vec<u8>);

pub(super) fn text(value: &str) -> Vec<u8> {
    let mut out = (value.len() as u64).to_le_bytes().to_vec();
    out.extend(value.as_bytes());
    out
}

pub(super) fn entry_text(key: &str, value: &str) -> Entry {
    (key.into(), 8, text(value))
}

pub(super) fn entry_u32(key: &str, value: u32) -> Entry {
    (key.into(), 4, value.to_le_bytes().into())
}

pub(super) fn entry_f32(key: &str, value: f32) -> Entry {
    (key.into(), 6, value.to_le_bytes().into())
}

pub(super) fn entry_texts(key: &str, values: &[&str]) -> Entry {
    let mut out = 8u32.to_le_bytes().to_vec();
    out.extend((values.len() as u64).to_le_bytes());
    values.iter().for_each(|v| out.extend(text(v)));
    (key.into(), 9, out)
}

pub(super) fn floats(name: &str, dims: &[u64], values: &[f32]) -> Made {
    (
        name.into(),
        dims.into(),
        Kind::F32.ggml(),
        values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    )
}

/// The header alone, and the whole file.
pub(super) fn file(version: u32, entries: &[Entry], tensors: &[Made]) -> (usize, Vec<u8>) {
    let mut out = b"GGUF".to_vec();
    out.extend(version.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((entries.len() as u64).to_le_bytes());
    for (key, kind, value) in entries {
        out.extend(text(key));
        out.extend(kind.to_le_bytes());
        out.extend(value);
    }
    let mut offset = 0u64;
    for (name, dims, kind, bytes) in tensors {
        out.extend(text(name));
        out.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
        out.extend(kind.to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset += (bytes.len() as u64).next_multiple_of(32);
    }
    let head = out.len();
    for (_, _, _, bytes) in tensors {
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(bytes);
    }
    (head, out)
}

/// Metadata of a Llama of 1 layer, width 4, 2 heads.
pub(super) fn llama() -> Vec<Entry> {
    vec![
        entry_text("general.architecture", "llama"),
        entry_u32("llama.block_count", 1),
        entry_u32("llama.context_length", 64),
        entry_u32("llama.embedding_length", 4),
        entry_u32("llama.feed_forward_length", 8),
        entry_u32("llama.attention.head_count", 2),
        entry_f32("llama.attention.layer_norm_rms_epsilon", 1e-5),
        entry_texts("tokenizer.ggml.tokens", &["a", "b", "é"]),
    ]
}
