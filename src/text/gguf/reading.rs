//! Reads the metadata of a trusted GGUF file as JSON, for the tests of this module, which does not know
//! formats.

use serde_json::{Map, Value, json};

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (head, tail) = bytes.split_at(count);
    *bytes = tail;
    head
}

fn u32(bytes: &mut &[u8]) -> u32 {
    u32::from_le_bytes(take(bytes, 4).try_into().unwrap())
}

fn u64(bytes: &mut &[u8]) -> u64 {
    u64::from_le_bytes(take(bytes, 8).try_into().unwrap())
}

fn text(bytes: &mut &[u8]) -> String {
    let len = u64(bytes) as usize;
    String::from_utf8(take(bytes, len).to_vec()).unwrap()
}

fn value(bytes: &mut &[u8], kind: u32) -> Value {
    match kind {
        4 => json!(u32(bytes)),
        5 => json!(u32(bytes) as i32),
        6 => json!(f32::from_bits(u32(bytes))),
        7 => json!(take(bytes, 1)[0] != 0),
        8 => json!(text(bytes)),
        9 => {
            let (kind, len) = (u32(bytes), u64(bytes));
            (0..len).map(|_| value(bytes, kind)).collect()
        }
        other => panic!("type {other}"),
    }
}

pub(super) fn entries(file: &[u8]) -> Map<String, Value> {
    let mut rest = &file[16..];
    let count = u64(&mut rest);
    let entry = |rest: &mut &[u8]| {
        let key = text(rest);
        let kind = u32(rest);
        (key, value(rest, kind))
    };
    (0..count).map(|_| entry(&mut rest)).collect()
}
