//! Errors in a request's body, with messages for the client.

/// What is wrong with a request, found before any model sees it. The texts are meant for clients.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The body is not valid JSON, or not of the expected form.
    #[error("The request body could not be read as JSON: {what}")]
    Malformed { what: String },
    /// The body is longer than allowed.
    #[error("The request body is longer than the {limit} bytes that this server accepts.")]
    TooLarge { limit: usize },
    /// The body did not arrive in time.
    #[error("The request body did not arrive within {seconds} s.")]
    Slow { seconds: u64 },
    /// Other bodies use all the memory reserved for bodies.
    #[error("The server is receiving too many large requests; try again in a moment.")]
    Crowded,
    /// The connection broke while the body was arriving.
    #[error("The request body could not be received to its end.")]
    Broken,
    /// A required field is missing or null.
    #[error("Missing required parameter: '{param}'.")]
    Missing { param: String },
    /// A field has the wrong JSON type.
    #[error("Invalid type for '{param}': expected {expected}, but got {got} instead.")]
    WrongType { param: String, expected: &'static str, got: &'static str },
    /// A field has an invalid value.
    #[error("Invalid value for '{param}': {what}.")]
    BadValue { param: String, what: String },
    /// A field requests something that this server does not support.
    #[error("'{param}' is not supported yet: {what}.")]
    Unsupported { param: String, what: String },
    /// The model's name is none of those served.
    #[error("The model '{asked}' does not exist. Served here: {}.", served.join(", "))]
    UnknownModel { asked: String, served: Vec<String> },
}

impl WireError {
    /// An invalid value of `param`, with an explanation.
    pub fn bad(param: impl Into<String>, what: impl Into<String>) -> WireError {
        WireError::BadValue { param: param.into(), what: what.into() }
    }

    /// An unsupported value of `param`, with the alternative.
    pub fn unsupported(param: impl Into<String>, what: impl Into<String>) -> WireError {
        WireError::Unsupported { param: param.into(), what: what.into() }
    }
}
