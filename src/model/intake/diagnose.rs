//! Finds out which tensor of a damaged safetensors file is at fault.
//!
//! The `safetensors` crate refuses damaged files, but mostly without naming the tensor. This code runs only
//! after that, and looks for the first fault in file order. It decides nothing: its caller already has an
//! error.

use serde_json::{Map, Value};

/// One tensor as listed in the header.
struct Listed<'a> {
    name: &'a str,
    from: u64,
    to: u64,
}

/// The first fault of the file with the bytes `file`; `None` if it is of an unknown kind.
pub(super) fn first_fault(file: &[u8]) -> Option<String> {
    let Some((len, rest)) = file.split_first_chunk::<8>() else {
        return Some(format!("it is {} bytes long, too short for a header", file.len()));
    };
    let len = u64::from_le_bytes(*len);
    let Some(head) = usize::try_from(len).ok().and_then(|len| rest.get(..len)) else {
        return Some(format!("its header claims {len} bytes, but {} are left", rest.len()));
    };
    let data = (rest.len() - head.len()) as u64;
    let head: Map<String, Value> = serde_json::from_slice(head).ok()?;
    let mut tensors = Vec::with_capacity(head.len());
    for (name, info) in head.iter().filter(|(name, _)| *name != "__metadata__") {
        match listed(name, info, data) {
            Ok(listed) => tensors.push(listed),
            Err(what) => return Some(format!("tensor `{name}` {what}")),
        }
    }
    tensors.sort_by_key(|tensor| (tensor.from, tensor.to));
    between(&tensors, data)
}

/// A tensor whose entry is valid by itself, or what is wrong with it.
fn listed<'a>(name: &'a str, info: &Value, data: u64) -> Result<Listed<'a>, String> {
    let dtype = info["dtype"].as_str().unwrap_or("(none)");
    let bits = bits(dtype).ok_or_else(|| format!("has the unknown data type {dtype}"))?;
    let whole = |value: &Value| -> Option<Vec<u64>> {
        value.as_array()?.iter().map(Value::as_u64).collect()
    };
    let shape = whole(&info["shape"]).ok_or("has no valid shape")?;
    let at = whole(&info["data_offsets"]).and_then(|at| <[u64; 2]>::try_from(at).ok());
    let [from, to] = at.ok_or("has no valid data_offsets")?;
    if from > to || to > data {
        return Err(format!(
            "(bytes {from} to {to}) reaches beyond the file, which has {data} bytes of data"
        ));
    }
    let size = shape.iter().try_fold(bits, |size, n| size.checked_mul(*n)).map(|bits| bits / 8);
    if size != Some(to - from) {
        let has = to - from;
        return Err(format!("has shape {shape:?} of {dtype}, but {has} bytes of data"));
    }
    Ok(Listed { name, from, to })
}

/// The sorted tensors must follow each other without gaps and fill the file.
fn between(tensors: &[Listed<'_>], data: u64) -> Option<String> {
    let mut end = 0;
    for tensor in tensors {
        let name = tensor.name;
        if tensor.from < end {
            return Some(format!("tensor `{name}` overlaps the one before it"));
        }
        if tensor.from > end {
            return Some(format!("there is a gap before tensor `{name}`"));
        }
        end = tensor.to;
    }
    (end < data).then(|| format!("{} bytes at its end belong to no tensor", data - end))
}

/// Bits of one value.
fn bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" | "F8_E5M2FNUZ"
        | "F8_E4M3FNUZ" => 8,
        "I16" | "U16" | "F16" | "BF16" => 16,
        "I32" | "U32" | "F32" => 32,
        "I64" | "U64" | "F64" | "C64" => 64,
        _ => return None,
    })
}
