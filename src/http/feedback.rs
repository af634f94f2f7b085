//! Votes on replies.

use super::error::ApiError;
use super::wire::WireError;
use super::wire::fields::{Fields, Range, wrong};
use super::{AppState, body};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use serde::Serialize;
use serde_json::Value;

/// The vote was taken.
#[derive(Serialize)]
pub struct Recorded {
    object: &'static str,
    id: String,
    recorded: bool,
}

/// `POST /v1/feedback`.
pub async fn record(State(state): State<AppState>, body: Body) -> Result<Json<Recorded>, ApiError> {
    let mut fields = body::fields(body, state.body_limit).await?;
    let (id, value) = vote(&mut fields)?;
    state.gateway.control().feedback(&id, value)?;
    Ok(Json(Recorded { object: "feedback", id, recorded: true }))
}

/// A reply's id, and -1 (bad) to 1 (good). Comment and tags are checked and not kept.
fn vote(fields: &mut Fields) -> Result<(String, f64), WireError> {
    let id = fields.string("id")?.filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| WireError::Missing { param: "id".to_owned() })?;
    fields.string("comment")?;
    fields.array("tags")?;
    let value = match fields.peek("value") {
        None => return Err(WireError::Missing { param: "value".to_owned() }),
        Some(Value::Bool(good)) => return Ok((id, if *good { 1.0 } else { -1.0 })),
        Some(Value::Number(_)) => fields.number("value", Range::closed(-1.0, 1.0))?,
        Some(other) => return Err(wrong("value", "a boolean or a number", other)),
    };
    Ok((id, value.unwrap_or(0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<(String, f64), WireError> {
        vote(&mut Fields::parse(body.as_bytes())?)
    }

    #[test]
    fn a_vote_is_a_boolean_or_a_number() {
        let vote = |value: &str| read(&format!(r#"{{"id":"x","value":{value}}}"#)).map(|v| v.1);
        assert_eq!(vote("true"), Ok(1.0));
        assert_eq!(vote("false"), Ok(-1.0));
        assert_eq!(vote("-0.5"), Ok(-0.5));
        assert!(matches!(vote("1.1"), Err(WireError::BadValue { param, .. }) if param == "value"));
        assert!(matches!(vote("\"up\""), Err(WireError::WrongType { .. })));
        assert!(matches!(vote("null"), Err(WireError::Missing { .. })));
    }

    #[test]
    fn the_id_is_required_and_the_rest_is_checked() {
        assert!(
            matches!(read(r#"{"value":1}"#), Err(WireError::Missing { param }) if param == "id")
        );
        let tagged = r#"{"id":"x","value":1,"comment":"nice","tags":["a"]}"#;
        assert_eq!(read(tagged), Ok(("x".to_owned(), 1.0)));
        let bad = r#"{"id":"x","value":1,"tags":"a"}"#;
        assert!(matches!(read(bad), Err(WireError::WrongType { param, .. }) if param == "tags"));
    }
}
