//! Request bodies: received within a size and a time, then read as JSON.

use super::wire::WireError;
use super::wire::fields::Fields;
use axum::body::{Body, Bytes, HttpBody};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use std::time::Duration;

/// How long a body may take to arrive.
const PATIENCE: Duration = Duration::from_secs(60);

/// Receives a body of at most `limit` bytes.
pub async fn receive(body: Body, limit: usize) -> Result<Bytes, WireError> {
    if body.size_hint().lower() > limit as u64 {
        return Err(WireError::TooLarge { limit });
    }
    let received = tokio::time::timeout(PATIENCE, Limited::new(body, limit).collect()).await;
    match received.map_err(|_| WireError::Slow { seconds: PATIENCE.as_secs() })? {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(WireError::TooLarge { limit }),
        Err(_) => Err(WireError::Broken),
    }
}

/// Receives a JSON object, to be taken apart field by field.
pub async fn fields(body: Body, limit: usize) -> Result<Fields, WireError> {
    Fields::parse(&receive(body, limit).await?)
}

/// Receives a JSON object of a known type; an empty body is an empty object.
pub async fn typed<T: DeserializeOwned>(body: Body, limit: usize) -> Result<T, WireError> {
    let bytes = receive(body, limit).await?;
    let bytes: &[u8] = if bytes.trim_ascii().is_empty() { b"{}" } else { &bytes };
    serde_json::from_slice(bytes).map_err(|error| WireError::Malformed { what: error.to_string() })
}
