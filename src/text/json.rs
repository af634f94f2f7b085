//! JSON inside chat templates: client JSON becomes template values, and template values become text exactly
//! as Python's `json.dumps(x, ensure_ascii=False)` writes it.
//!
//! Models are trained on prompts that Python rendered, so a missing space after a comma gives a prompt that
//! the model has never seen. minijinja's own filter escapes for HTML and formats floats differently, so this
//! filter replaces it. It has the options of transformers' filter: `ensure_ascii`, `indent`, `separators`,
//! `sort_keys`.
//!
//! Two differences remain: integers beyond 64 bits arrive as floats, because the request's JSON was parsed
//! that way, and nesting is limited.

use minijinja::value::{Kwargs, Rest, Value, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Error, ErrorKind, State};
use std::fmt::Write;

/// Deeper nesting is refused. A request's JSON cannot be deeper, so only a template that nests values itself
/// gets here, and each level costs stack.
const MAX_DEPTH: usize = 128;
/// How many bytes of written JSON cost one unit of fuel, in addition to what the engine charges.
const BYTES_PER_FUEL: usize = 4;

/// A JSON value as templates see it, with its keys in order.
pub(super) fn to_template(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(b) => Value::from(*b),
        serde_json::Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(i), _) => Value::from(i),
            (None, Some(u)) => Value::from(u),
            (None, None) => Value::from(n.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(s) => Value::from(s.as_str()),
        serde_json::Value::Array(list) => list.iter().map(to_template).collect(),
        serde_json::Value::Object(map) => {
            Value::from_pairs(map.iter().map(|(key, item)| (key.as_str(), to_template(item))))
        }
    }
}

pub(super) fn tojson(
    state: &State,
    value: &Value,
    args: Rest<ValueOrKwargs>,
) -> Result<Value, Error> {
    let mut writer = Writer { style: Style::from_args(&args.into_values())?, out: String::new() };
    writer.value(value, 0)?;
    state.consume_fuel((writer.out.len() / BYTES_PER_FUEL) as u64)?;
    Ok(Value::from(writer.out))
}

/// A value as `json.dumps(x, ensure_ascii=False)` writes it; empty if it is nested too deeply.
pub(super) fn python(value: &serde_json::Value) -> String {
    let mut writer = Writer { style: Style::default(), out: String::new() };
    match writer.value(&to_template(value), 0) {
        Ok(()) => writer.out,
        Err(_) => String::new(),
    }
}

struct Style {
    ensure_ascii: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

impl Default for Style {
    fn default() -> Self {
        let (item, key) = (", ".to_owned(), ": ".to_owned());
        Self {
            ensure_ascii: false,
            indent: None,
            item_separator: item,
            key_separator: key,
            sort_keys: false,
        }
    }
}

impl Style {
    /// Reads the filter's arguments, by position or by name, in transformers' order.
    fn from_args(args: &[Value]) -> Result<Self, Error> {
        let (by_place, by_name): (&[Value], Kwargs) = from_args(args)?;
        let option = |place: usize, name: &str| -> Result<Option<Value>, Error> {
            let value = by_place
                .get(place)
                .cloned()
                .map_or_else(|| by_name.get::<Option<Value>>(name), |v| Ok(Some(v)))?;
            Ok(value.filter(|value| !value.is_none() && !value.is_undefined()))
        };
        let ensure_ascii = option(0, "ensure_ascii")?.is_some_and(|v| v.is_true());
        let indent = option(1, "indent")?.map(indent_unit).transpose()?;
        let separators = option(2, "separators")?;
        let sort_keys = option(3, "sort_keys")?.is_some_and(|v| v.is_true());
        by_name.assert_all_used()?;
        let (item_separator, key_separator) = match separators {
            Some(pair) => (separator(&pair, 0)?, separator(&pair, 1)?),
            None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        };
        Ok(Self { ensure_ascii, indent, item_separator, key_separator, sort_keys })
    }
}

/// One level of indentation: a string as it is, or a number of spaces.
fn indent_unit(value: Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    let spaces =
        i64::try_from(value).map_err(|_| invalid("indent must be a number or a string"))?;
    match usize::try_from(spaces.max(0)) {
        Ok(spaces) if spaces <= 64 => Ok(" ".repeat(spaces)),
        _ => Err(invalid("indent must be at most 64")),
    }
}

fn separator(pair: &Value, index: usize) -> Result<String, Error> {
    let text = pair.get_item_by_index(index)?;
    text.as_str().map(str::to_owned).ok_or_else(|| invalid("separators must be two strings"))
}

fn invalid(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}

struct Writer {
    style: Style,
    out: String,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(invalid("value is nested too deeply for JSON"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)?),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.list(value, depth)?,
            ValueKind::Map => self.map(value, depth)?,
            kind => {
                let what = format!("a value of type {kind} is not JSON serializable");
                return Err(Error::new(ErrorKind::BadSerialization, what));
            }
        }
        Ok(())
    }

    fn list(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.out.push('[');
        let mut empty = true;
        for item in value.try_iter()? {
            self.between(&mut empty, depth + 1);
            self.value(&item, depth + 1)?;
        }
        self.close(']', empty, depth);
        Ok(())
    }

    fn map(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let mut entries = Vec::new();
        for key in value.try_iter()? {
            entries.push((key_text(&key)?, value.get_item(&key)?));
        }
        if self.style.sort_keys {
            entries.sort_by(|a, b| a.0.cmp(&b.0));
        }
        self.out.push('{');
        let mut empty = true;
        for (key, item) in entries {
            self.between(&mut empty, depth + 1);
            self.string(&key);
            self.out.push_str(&self.style.key_separator);
            self.value(&item, depth + 1)?;
        }
        self.close('}', empty, depth);
        Ok(())
    }

    /// Writes what comes before an item: a separator unless it is the first, and a new line if indented.
    fn between(&mut self, first: &mut bool, depth: usize) {
        if !std::mem::take(first) {
            self.out.push_str(&self.style.item_separator);
        }
        self.new_line(depth);
    }

    fn close(&mut self, bracket: char, empty: bool, depth: usize) {
        if !empty {
            self.new_line(depth);
        }
        self.out.push(bracket);
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(unit) = &self.style.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(unit.as_str(), depth));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{08}' => self.out.push_str("\\b"),
                '\u{0C}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.style.ensure_ascii && c > '~') => self.escape(c),
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }

    fn escape(&mut self, c: char) {
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a string cannot fail.
            let _ = write!(self.out, "\\u{unit:04x}");
        }
    }
}

/// A map's key as Python writes it: `None`, booleans and numbers become strings.
fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::Number => number(key),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::None => Ok("null".to_owned()),
        _ => Err(invalid("keys must be strings, numbers, booleans or none")),
    }
}

fn number(value: &Value) -> Result<String, Error> {
    if value.is_integer() {
        return Ok(value.to_string());
    }
    Ok(float(f64::try_from(value.clone())?))
}

/// A float as Python's `repr` writes it: shortest digits that read back the same, with an exponent
/// below 1e-4 and from 1e16 on.
fn float(x: f64) -> String {
    if x.is_nan() {
        return "NaN".to_owned();
    }
    if x.is_infinite() {
        return if x > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = format!("{x:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        Ok(exponent) if (-4..16).contains(&exponent) || x == 0.0 => format!("{x:?}"),
        Ok(exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
        }
        Err(_) => scientific,
    }
}

#[cfg(test)]
mod tests;
