//! The header of a GGUF file: metadata and the list of tensors, with every size checked.
//!
//! Strings and arrays stay in the mapped file and are referenced as ranges. The memory for a header is therefore
//! bounded by its own length, whatever it claims. Decision: docs/decisions/030.
//!
//! It knows the container format (ggml-org/ggml, docs/gguf.md, versions 2 and 3), but no architecture and no
//! names.

use crate::device::Kind;
use std::collections::HashMap;
use std::ops::Range;

/// Maximum number of metadata entries, and of tensors. The largest models have about 2,000 tensors.
const MAX_ENTRIES: u64 = 65_536;
const MAX_DIMS: u32 = 4;
const MAX_NAME: usize = 255;
const DEFAULT_ALIGNMENT: u64 = 32;

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It violates its own format: truncated or damaged.
    Damaged(String),
    /// It is valid, but not supported.
    Unsupported(String),
}

type Result<T> = std::result::Result<T, Fault>;

fn damaged<T>(what: impl Into<String>) -> Result<T> {
    Err(Fault::Damaged(what.into()))
}

/// One metadata entry. Strings and arrays are ranges of the file.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An unsigned integer of 8 to 64 bits, widened.
    Unsigned(u64),
    /// A signed integer of 8 to 64 bits, widened.
    Signed(i64),
    /// A float of 32 or 64 bits, widened.
    Float(f64),
    /// One byte in the file; true unless 0.
    Bool(bool),
    /// A string: its bytes in the file, without the length field. Not checked to be UTF-8.
    Text(Range<usize>),
    /// A list of elements of one type; nested lists are rejected.
    Array {
        /// The type of every element.
        element: Element,
        /// Number of elements.
        len: usize,
        /// Its bytes in the file; those of strings include their length fields.
        at: Range<usize>,
    },
}

/// The element type of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// Unsigned integer, 1 byte.
    U8,
    /// Signed integer, 1 byte.
    I8,
    /// Unsigned integer, 2 bytes, little-endian.
    U16,
    /// Signed integer, 2 bytes, little-endian.
    I16,
    /// Unsigned integer, 4 bytes, little-endian.
    U32,
    /// Signed integer, 4 bytes, little-endian.
    I32,
    /// IEEE 754 float, 4 bytes, little-endian.
    F32,
    /// One byte; true unless 0.
    Bool,
    /// A string: its length as [`Element::U64`], then its bytes.
    Text,
    /// Unsigned integer, 8 bytes, little-endian.
    U64,
    /// Signed integer, 8 bytes, little-endian.
    I64,
    /// IEEE 754 float, 8 bytes, little-endian.
    F64,
}

/// One tensor: its position, type and shape.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    /// The storage format of its numbers.
    pub kind: Kind,
    /// Outermost dimension first (the file has them innermost first).
    pub shape: Vec<usize>,
    /// Its bytes in the file.
    pub at: Range<usize>,
}

/// A checked header.
#[derive(Debug, Default)]
pub struct Header {
    /// Metadata by key, such as `general.architecture`.
    pub entries: HashMap<String, Value>,
    /// Tensors by the name in the file; none overlap.
    pub tensors: HashMap<String, TensorInfo>,
}

impl Header {
    /// Reads the header of the file with the bytes `file`. Fails if it is damaged, or in a version or with a kind of
    /// tensor that is not supported.
    pub fn parse(file: &[u8]) -> Result<Header> {
        let mut cursor = Cursor { file, at: 0 };
        check_version(&mut cursor)?;
        let tensors = cursor.u64("the number of tensors")?;
        let entries = cursor.u64("the number of metadata entries")?;
        // The minimum size of a tensor entry: name length, number of dimensions, one dimension, type, offset.
        cursor.plausible(tensors, 8 + 4 + 8 + 4 + 8, "tensors")?;
        cursor.plausible(entries, 8 + 4 + 1, "metadata entries")?;
        let mut header = Header::default();
        for _ in 0..entries {
            let key = cursor.name("a metadata key")?;
            let value = value(&mut cursor, &key)?;
            if header.entries.insert(key.clone(), value).is_some() {
                return damaged(format!("metadata entry `{key}` occurs twice"));
            }
        }
        let declared: Vec<Declared> =
            (0..tensors).map(|_| declared(&mut cursor)).collect::<Result<_>>()?;
        let alignment = alignment(&header.entries)?;
        let start = (cursor.at as u64).next_multiple_of(alignment);
        header.tensors = place(declared, start, alignment, file.len())?;
        Ok(header)
    }
}

/// GGUF, in a version that is read: 2 or 3.
fn check_version(cursor: &mut Cursor<'_>) -> Result<()> {
    let magic = cursor.array::<4>("the first four bytes")?;
    let legacy = match &magic {
        b"GGUF" => None,
        b"lmgg" => Some("GGML"),
        b"fmgg" => Some("GGMF"),
        b"tjgg" => Some("GGJT"),
        b"algg" => Some("GGLA"),
        _ => return damaged("it does not begin with `GGUF`"),
    };
    if let Some(name) = legacy {
        return Err(Fault::Unsupported(format!(
            "it is a legacy {name} file; convert the original model to GGUF"
        )));
    }
    match cursor.u32("the version")? {
        2 | 3 => Ok(()),
        version if version != 0 && version & 0xFFFF == 0 => {
            Err(Fault::Unsupported("it is a big-endian GGUF file".into()))
        }
        version => Err(Fault::Unsupported(format!(
            "it has GGUF version {version}; versions 2 and 3 are read"
        ))),
    }
}

struct Declared {
    name: String,
    kind: Kind,
    shape: Vec<usize>,
    bytes: usize,
    offset: u64,
}

fn declared(cursor: &mut Cursor<'_>) -> Result<Declared> {
    let name = cursor.name("a tensor's name")?;
    let dims = cursor.u32("a tensor's dimensions")?;
    if dims == 0 || dims > MAX_DIMS {
        return damaged(format!("tensor `{name}` has {dims} dimensions"));
    }
    let mut shape = Vec::with_capacity(dims as usize);
    for _ in 0..dims {
        match usize::try_from(cursor.u64("a tensor's shape")?) {
            Ok(size) if size > 0 => shape.push(size),
            _ => return damaged(format!("tensor `{name}` has an impossible shape")),
        }
    }
    let kind = Kind::from_ggml(cursor.u32("a tensor's type")?).map_err(|other| {
        Fault::Unsupported(format!(
            "its tensor `{name}` is stored as {other}, which is not supported; supported: {}",
            Kind::list()
        ))
    })?;
    let offset = cursor.u64("a tensor's offset")?;
    let Some(row) = kind.row_bytes(shape[0]) else {
        return damaged(format!(
            "tensor `{name}` has rows of {} numbers, no whole {kind} blocks",
            shape[0]
        ));
    };
    let rows = shape[1..].iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    let Some(bytes) = rows.and_then(|rows| rows.checked_mul(row)) else {
        return damaged(format!("tensor `{name}` has an impossible shape"));
    };
    shape.reverse();
    Ok(Declared { name, kind, shape, bytes, offset })
}

fn alignment(entries: &HashMap<String, Value>) -> Result<u64> {
    match entries.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::Unsigned(n)) if n.is_power_of_two() && *n <= 1 << 20 => Ok(*n),
        Some(_) => damaged("general.alignment is not a power of two up to 1 MiB"),
    }
}

/// Checks the position of each tensor: aligned, inside the file, and not overlapping another.
fn place(
    declared: Vec<Declared>,
    start: u64,
    alignment: u64,
    file: usize,
) -> Result<HashMap<String, TensorInfo>> {
    let mut tensors = HashMap::new();
    let mut taken: Vec<(Range<usize>, String)> = Vec::new();
    for Declared { name, kind, shape, bytes, offset } in declared {
        if !offset.is_multiple_of(alignment) {
            return damaged(format!("tensor `{name}` is not aligned to {alignment} bytes"));
        }
        let from = start.checked_add(offset).and_then(|at| usize::try_from(at).ok());
        let to = from.and_then(|from| from.checked_add(bytes)).filter(|to| *to <= file);
        let (Some(from), Some(to)) = (from, to) else {
            return damaged(format!(
                "tensor `{name}` ({bytes} bytes at offset {offset}) reaches beyond the file's {file} bytes"
            ));
        };
        taken.push((from..to, name.clone()));
        if tensors.insert(name.clone(), TensorInfo { kind, shape, at: from..to }).is_some() {
            return damaged(format!("tensor `{name}` occurs twice"));
        }
    }
    taken.sort_by_key(|(at, _)| at.start);
    match taken.windows(2).find(|pair| pair[0].0.end > pair[1].0.start) {
        Some(pair) => damaged(format!("tensors `{}` and `{}` overlap", pair[0].1, pair[1].1)),
        None => Ok(tensors),
    }
}

fn value(cursor: &mut Cursor<'_>, key: &str) -> Result<Value> {
    match cursor.u32("a metadata entry's type")? {
        8 => Ok(Value::Text(cursor.text(key)?)),
        9 => array(cursor, key),
        number => match element(number) {
            Some(element) => scalar(cursor, element, key),
            None => damaged(format!("metadata entry `{key}` has the unknown type {number}")),
        },
    }
}

fn element(number: u32) -> Option<Element> {
    Some(match number {
        0 => Element::U8,
        1 => Element::I8,
        2 => Element::U16,
        3 => Element::I16,
        4 => Element::U32,
        5 => Element::I32,
        6 => Element::F32,
        7 => Element::Bool,
        8 => Element::Text,
        10 => Element::U64,
        11 => Element::I64,
        12 => Element::F64,
        _ => return None,
    })
}

impl Element {
    /// Bytes of one element; for a string, of its length field.
    pub(super) fn size(self) -> usize {
        match self {
            Element::U8 | Element::I8 | Element::Bool => 1,
            Element::U16 | Element::I16 => 2,
            Element::U32 | Element::I32 | Element::F32 => 4,
            Element::Text | Element::U64 | Element::I64 | Element::F64 => 8,
        }
    }

    /// Reads one element from its bytes, of which there must be [`Element::size`]; `None` for a string.
    pub(super) fn read(self, bytes: &[u8]) -> Option<Value> {
        Some(match self {
            Element::U8 => Value::Unsigned(u64::from(*bytes.first()?)),
            Element::I8 => Value::Signed(i64::from(i8::from_le_bytes(bytes.try_into().ok()?))),
            Element::U16 => Value::Unsigned(u16::from_le_bytes(bytes.try_into().ok()?).into()),
            Element::I16 => Value::Signed(i16::from_le_bytes(bytes.try_into().ok()?).into()),
            Element::U32 => Value::Unsigned(u32::from_le_bytes(bytes.try_into().ok()?).into()),
            Element::I32 => Value::Signed(i32::from_le_bytes(bytes.try_into().ok()?).into()),
            Element::F32 => Value::Float(f32::from_le_bytes(bytes.try_into().ok()?).into()),
            Element::Bool => Value::Bool(*bytes.first()? != 0),
            Element::U64 => Value::Unsigned(u64::from_le_bytes(bytes.try_into().ok()?)),
            Element::I64 => Value::Signed(i64::from_le_bytes(bytes.try_into().ok()?)),
            Element::F64 => Value::Float(f64::from_le_bytes(bytes.try_into().ok()?)),
            Element::Text => return None,
        })
    }
}

fn scalar(cursor: &mut Cursor<'_>, element: Element, key: &str) -> Result<Value> {
    let at = cursor.take(element.size(), key)?;
    match element.read(&cursor.file[at]) {
        Some(value) => Ok(value),
        None => damaged(format!("metadata entry `{key}` cannot be read")),
    }
}

fn array(cursor: &mut Cursor<'_>, key: &str) -> Result<Value> {
    let number = cursor.u32("an array's type")?;
    let Some(element) = element(number) else {
        return damaged(format!(
            "metadata array `{key}` has elements of the unreadable type {number}"
        ));
    };
    let len = cursor.u64("an array's length")?;
    let bytes = usize::try_from(len).ok().and_then(|len| len.checked_mul(element.size()));
    let Some(bytes) = bytes.filter(|bytes| *bytes <= cursor.left()) else {
        return damaged(format!(
            "metadata array `{key}` claims {len} elements, more than the file holds"
        ));
    };
    let start = cursor.at;
    if element == Element::Text {
        for _ in 0..len {
            cursor.text(key)?;
        }
    } else {
        cursor.take(bytes, key)?;
    }
    Ok(Value::Array { element, len: len as usize, at: start..cursor.at })
}

/// A position in the file; every read checks that the bytes are there.
struct Cursor<'a> {
    file: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn left(&self) -> usize {
        self.file.len() - self.at
    }

    fn take(&mut self, bytes: usize, what: &str) -> Result<Range<usize>> {
        if bytes > self.left() {
            return damaged(format!("it ends inside {what}"));
        }
        let start = self.at;
        self.at += bytes;
        Ok(start..self.at)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let at = self.take(N, what)?;
        let mut out = [0; N];
        out.copy_from_slice(&self.file[at]);
        Ok(out)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn text(&mut self, what: &str) -> Result<Range<usize>> {
        let len = self.u64(what)?;
        match usize::try_from(len) {
            Ok(len) => self.take(len, what),
            Err(_) => damaged(format!("it ends inside {what}")),
        }
    }

    fn name(&mut self, what: &str) -> Result<String> {
        let at = self.text(what)?;
        if at.len() > MAX_NAME {
            return damaged(format!("{what} is {} bytes long", at.len()));
        }
        match std::str::from_utf8(&self.file[at]) {
            Ok(name) => Ok(name.to_owned()),
            Err(_) => damaged(format!("{what} is not UTF-8")),
        }
    }

    /// Checks that a count is at most [`MAX_ENTRIES`] and fits in the remaining bytes, if each entry takes at
    /// least `least` bytes.
    fn plausible(&self, count: u64, least: u64, what: &str) -> Result<()> {
        let room = self.left() as u64 / least;
        if count > room.min(MAX_ENTRIES) {
            return damaged(format!(
                "it claims {count} {what}, which is impossible for a file of its size"
            ));
        }
        Ok(())
    }
}
