//! Metadata of a GGUF file by key and type.
//!
//! A view of the header and the mapped bytes. An absent key is `None`. A key with another type than expected
//! is an error that names the key, since a default in its place would change the results.

use super::header::{Element, Fault, Header, Value};

/// Metadata, with the bytes that its ranges refer to.
#[derive(Clone, Copy)]
pub struct Metadata<'a> {
    pub(super) header: &'a Header,
    pub(super) file: &'a [u8],
}

type Result<T> = std::result::Result<T, Fault>;

impl<'a> Metadata<'a> {
    /// A string, `None` if the key is absent. Fails if it has another type or is not UTF-8.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.header.entries.get(key) {
            None => Ok(None),
            Some(Value::Text(at)) => match std::str::from_utf8(&self.file[at.clone()]) {
                Ok(text) => Ok(Some(text)),
                Err(_) => Err(Fault::Damaged(format!("metadata entry `{key}` is not UTF-8"))),
            },
            Some(_) => wrong(key, "a text"),
        }
    }

    /// A count or an id; `None` if the key is absent. Fails if it has another type, or if it is a list of different
    /// counts.
    pub fn count(&self, key: &str) -> Result<Option<u64>> {
        match self.header.entries.get(key) {
            None => Ok(None),
            Some(Value::Unsigned(n)) => Ok(Some(*n)),
            Some(Value::Signed(n)) if *n >= 0 => Ok(Some(*n as u64)),
            Some(Value::Array { .. }) => self.same_count(key),
            Some(_) => wrong(key, "a whole number"),
        }
    }

    /// Some files have one count per layer; usable only if all layers have the same.
    fn same_count(&self, key: &str) -> Result<Option<u64>> {
        let all = self.numbers(key)?.unwrap_or_default();
        match all.first() {
            Some(first) if all.iter().all(|n| n == first) && *first >= 0.0 => {
                Ok(Some(*first as u64))
            }
            _ => Err(Fault::Unsupported(format!("its `{key}` differs from layer to layer"))),
        }
    }

    /// A number, `None` if the key is absent; integers are converted. Fails if it has another type.
    pub fn float(&self, key: &str) -> Result<Option<f64>> {
        match self.header.entries.get(key) {
            None => Ok(None),
            Some(Value::Float(x)) => Ok(Some(*x)),
            Some(Value::Unsigned(n)) => Ok(Some(*n as f64)),
            Some(Value::Signed(n)) => Ok(Some(*n as f64)),
            Some(_) => wrong(key, "a number"),
        }
    }

    /// A boolean, `None` if the key is absent. Fails if it has another type.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.header.entries.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => wrong(key, "true or false"),
        }
    }

    /// A list of strings, borrowed from the file; `None` if the key is absent. Fails if it has another type or is not
    /// UTF-8.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        let (len, at) = match self.header.entries.get(key) {
            None => return Ok(None),
            Some(Value::Array { element: Element::Text, len, at }) => (*len, at.clone()),
            Some(_) => return wrong(key, "a list of texts"),
        };
        let mut rest = &self.file[at];
        // The header has been checked: `len` is no more than there is.
        let mut texts = Vec::with_capacity(len);
        while let Some((head, tail)) = rest.split_first_chunk::<8>() {
            let (text, tail) = tail.split_at(u64::from_le_bytes(*head) as usize);
            let text = std::str::from_utf8(text).map_err(|_| {
                Fault::Damaged(format!("element {} of `{key}` is not UTF-8", texts.len()))
            })?;
            texts.push(text);
            rest = tail;
        }
        Ok(Some(texts))
    }

    /// A list of booleans; `None` if the key is absent. Fails if it has another type, a single boolean included.
    pub fn flags(&self, key: &str) -> Result<Option<Vec<bool>>> {
        match self.header.entries.get(key) {
            None => Ok(None),
            Some(Value::Array { element: Element::Bool, at, .. }) => {
                Ok(Some(self.file[at.clone()].iter().map(|byte| *byte != 0).collect()))
            }
            Some(_) => wrong(key, "a list of flags"),
        }
    }

    /// A list of numbers of any type; `None` if the key is absent. Fails if it has another type.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let (element, at) = match self.header.entries.get(key) {
            None => return Ok(None),
            Some(Value::Array { element, at, .. }) if *element != Element::Text => {
                (*element, at.clone())
            }
            Some(_) => return wrong(key, "a list of numbers"),
        };
        let number = |bytes: &[u8]| match element.read(bytes) {
            Some(Value::Unsigned(n)) => Some(n as f64),
            Some(Value::Signed(n)) => Some(n as f64),
            Some(Value::Float(x)) => Some(x),
            _ => None,
        };
        let numbers: Option<Vec<f64>> =
            self.file[at].chunks_exact(element.size()).map(number).collect();
        match numbers {
            Some(numbers) => Ok(Some(numbers)),
            None => wrong(key, "a list of numbers"),
        }
    }
}

fn wrong<T>(key: &str, wanted: &str) -> Result<T> {
    Err(Fault::Damaged(format!("metadata entry `{key}` is not {wanted}")))
}
