//! Reads one JSON object of a request field by field, with precise errors.
//!
//! A missing field and `null` are the same. It knows JSON, but not what the fields mean; the caller passes
//! the ranges.

use super::WireError;
use serde_json::{Map, Value};
use std::fmt;

/// The fields of one JSON object that have not been taken yet.
#[derive(Debug)]
pub struct Fields {
    left: Map<String, Value>,
    #[cfg(test)]
    asked_for: std::collections::BTreeSet<String>,
}

/// The allowed values of a number.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    /// The minimum, or the bound below it.
    pub min: f64,
    /// Whether `min` itself is allowed.
    pub min_allowed: bool,
    /// The greatest value.
    pub max: f64,
}

impl Range {
    /// The numbers from `min` to `max`, both included, in the field's own unit.
    pub const fn closed(min: f64, max: f64) -> Range {
        Range { min, min_allowed: true, max }
    }

    /// The numbers above `min`, up to and including `max`, in the field's own unit.
    pub const fn above(min: f64, max: f64) -> Range {
        Range { min, min_allowed: false, max }
    }

    fn holds(&self, value: f64) -> bool {
        let enough = if self.min_allowed { value >= self.min } else { value > self.min };
        enough && value <= self.max
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = if self.min_allowed { "at least" } else { "above" };
        write!(f, "{from} {} and at most {}", self.min, self.max)
    }
}

impl Fields {
    /// Parses a request body. Fails if it is not JSON or no object.
    pub fn parse(body: &[u8]) -> Result<Fields, WireError> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(left)) => Ok(Fields {
                left,
                #[cfg(test)]
                asked_for: Default::default(),
            }),
            Ok(other) => {
                let what = format!("expected an object, but got {} instead", kind(&other));
                Err(WireError::Malformed { what })
            }
            Err(error) => Err(not_a_number(body, &error)
                .unwrap_or_else(|| WireError::Malformed { what: error.to_string() })),
        }
    }

    /// Takes a field as it is.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        #[cfg(test)]
        self.asked_for.insert(name.to_owned());
        self.left.remove(name).filter(|value| !value.is_null())
    }

    /// Returns a field without taking it.
    pub fn peek(&self, name: &str) -> Option<&Value> {
        self.left.get(name).filter(|value| !value.is_null())
    }

    /// The names of fields that were not taken.
    #[cfg(test)]
    pub fn left(&self) -> Vec<String> {
        self.left.keys().cloned().collect()
    }

    /// The names that were asked for.
    #[cfg(test)]
    pub fn asked_for(&self) -> &std::collections::BTreeSet<String> {
        &self.asked_for
    }

    /// Takes a string, if the field is there. Fails if it is of another type.
    pub fn string(&mut self, name: &str) -> Result<Option<String>, WireError> {
        self.typed(name)
    }

    /// Takes a boolean, if the field is there. Fails if it is of another type.
    pub fn boolean(&mut self, name: &str) -> Result<Option<bool>, WireError> {
        self.typed(name)
    }

    /// Takes an object, if the field is there. Fails if it is of another type.
    pub fn object(&mut self, name: &str) -> Result<Option<Map<String, Value>>, WireError> {
        self.typed(name)
    }

    /// Takes an array, if the field is there. Fails if it is of another type.
    pub fn array(&mut self, name: &str) -> Result<Option<Vec<Value>>, WireError> {
        self.typed(name)
    }

    fn typed<T: Typed>(&mut self, name: &str) -> Result<Option<T>, WireError> {
        self.take(name).map(|value| typed(value, name)).transpose()
    }

    /// Takes a number within `range`, if the field is there. Fails if it is of another type or outside of it.
    pub fn number(&mut self, name: &str, range: Range) -> Result<Option<f64>, WireError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_f64().ok_or_else(|| wrong(name, "a number", &value))?;
        if range.holds(number) {
            return Ok(Some(number));
        }
        Err(WireError::bad(name, format!("it must be {range}, this is {value}")))
    }

    /// Takes an integer within `min..=max`, if the field is there; `1.0` is accepted. Fails if it is of another type or
    /// outside of these.
    pub fn integer(&mut self, name: &str, min: i64, max: i64) -> Result<Option<i64>, WireError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = whole(&value).ok_or_else(|| wrong(name, "an integer", &value))?;
        match i64::try_from(number) {
            Ok(number) if (min..=max).contains(&number) => Ok(Some(number)),
            _ if max == i64::MAX => {
                Err(WireError::bad(name, format!("it must be at least {min}, this is {value}")))
            }
            _ => Err(WireError::bad(name, format!("it must be {min} to {max}, this is {value}"))),
        }
    }
}

/// The field with the value `NaN` or an infinity, which JSON does not allow but some clients write.
fn not_a_number(body: &[u8], error: &serde_json::Error) -> Option<WireError> {
    let line = body.split(|byte| *byte == b'\n').nth(error.line().checked_sub(1)?)?;
    let (before, after) = line.split_at_checked(error.column().checked_sub(1)?)?;
    let word = ["NaN", "Infinity"].into_iter().find(|word| after.starts_with(word.as_bytes()))?;
    let before = String::from_utf8_lossy(before);
    let (_, name) =
        before.trim_end_matches([' ', ':', '-']).trim_end_matches('"').rsplit_once('"')?;
    let what = format!("it must be a number, and JSON has no {word}");
    Some(WireError::bad(name, what))
}

/// An integer of up to 64 bits, signed or unsigned.
pub fn whole(value: &Value) -> Option<i128> {
    if let Some(number) = value.as_i64() {
        return Some(i128::from(number));
    }
    if let Some(number) = value.as_u64() {
        return Some(i128::from(number));
    }
    // Up to here, every integer has exactly one representation as a double.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let number = value.as_f64()?;
    (number.fract() == 0.0 && number.abs() <= EXACT).then_some(number as i128)
}

/// Token ids; the arm checks whether its model has them. Fails if one is no number from 0 to 2^32 - 1.
pub fn token_ids(list: &[Value], param: &str) -> Result<Vec<u32>, WireError> {
    let one = |(index, value): (usize, &Value)| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| match value.is_number() {
            true => WireError::bad(format!("{param}[{index}]"), format!("{value} is no token id")),
            false => wrong(format!("{param}[{index}]"), "a token id", value),
        })
    };
    list.iter().enumerate().map(one).collect()
}

/// Takes a part of an object that is at `param`, if it is there. Fails if it is of another type.
pub fn optional<T: Typed>(
    holder: &mut Map<String, Value>,
    name: &str,
    param: &str,
) -> Result<Option<T>, WireError> {
    let value = holder.remove(name).filter(|value| !value.is_null());
    value.map(|value| typed(value, format_args!("{param}.{name}"))).transpose()
}

/// Takes a text of an object that is at `param`. Fails if it is missing or of another type.
pub fn required(
    holder: &mut Map<String, Value>,
    name: &str,
    param: &str,
) -> Result<String, WireError> {
    let missing = || WireError::Missing { param: format!("{param}.{name}") };
    optional(holder, name, param)?.ok_or_else(missing)
}

/// A type that a JSON value may have.
pub trait Typed: Sized {
    /// What an error calls it.
    const NAME: &'static str;

    /// The value, or back what has another type.
    fn of(value: Value) -> Result<Self, Value>;
}

macro_rules! typed {
    ($($type:ty, $variant:ident, $name:literal;)*) => {$(
        impl Typed for $type {
            const NAME: &'static str = $name;

            fn of(value: Value) -> Result<$type, Value> {
                if let Value::$variant(value) = value { Ok(value) } else { Err(value) }
            }
        }
    )*};
}

typed! {
    bool, Bool, "a boolean";
    String, String, "a string";
    Vec<Value>, Array, "an array";
    Map<String, Value>, Object, "an object";
}

/// The value at `param`. Fails if it is not of this type.
pub fn typed<T: Typed>(value: Value, param: impl fmt::Display) -> Result<T, WireError> {
    T::of(value).map_err(|other| wrong(param.to_string(), T::NAME, &other))
}

/// The error for a value of the wrong type.
pub fn wrong(param: impl Into<String>, expected: &'static str, got: &Value) -> WireError {
    WireError::WrongType { param: param.into(), expected, got: kind(got) }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a decimal number",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
