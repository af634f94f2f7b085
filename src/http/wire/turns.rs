//! A chat that is built from a request in another format: its messages, and the place of each in the request.
//!
//! Errors about a message name its place in the request, which the messages alone do not tell. It does not know the
//! format of the request; the parsers of the other APIs fill it.

use serde_json::Value;

/// The messages so far.
#[derive(Debug, Default)]
pub struct Turns {
    /// The messages of the chat.
    pub messages: Vec<Value>,
    /// Of each, the field that it is from, such as `input[3]`.
    pub places: Vec<String>,
}

impl Turns {
    /// Adds a message that is from this field.
    pub fn push(&mut self, message: Value, place: &str) {
        self.messages.push(message);
        self.places.push(place.to_owned());
    }
}
