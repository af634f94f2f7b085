//! Votes on replies.

use super::status_codes::ApiError;
use super::wire::WireError;
use super::wire::fields::{Fields, Range, typed, wrong};
use super::{AppState, body};
use crate::control::VoteGiven;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

/// The vote was accepted.
#[derive(Serialize, JsonSchema)]
pub struct Recorded {
    object: &'static str,
    id: String,
    recorded: bool,
}

/// Serves `POST /v1/feedback`. Fails if the body is not valid, or if no reply with its id is remembered.
pub async fn record(State(state): State<AppState>, body: Body) -> Result<Json<Recorded>, ApiError> {
    let mut fields = body::fields(&state, body).await?;
    let vote = vote(&mut fields)?;
    state.gateway.control().feedback(&vote)?;
    Ok(Json(Recorded { object: "feedback", id: vote.id, recorded: true }))
}

fn vote(fields: &mut Fields) -> Result<VoteGiven, WireError> {
    let id = fields.string("id")?.filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| WireError::Missing { param: "id".to_owned() })?;
    let comment = fields.string("comment")?;
    let tags = fields.array("tags")?.unwrap_or_default();
    let tags = tags.into_iter().enumerate().map(tag).collect::<Result<_, _>>()?;
    let value = match fields.peek("value") {
        None => return Err(WireError::Missing { param: "value".to_owned() }),
        Some(Value::Bool(true)) => 1.0,
        Some(Value::Bool(false)) => -1.0,
        Some(Value::Number(_)) => {
            fields.number("value", Range::closed(-1.0, 1.0))?.unwrap_or_default()
        }
        Some(other) => return Err(wrong("value", "a boolean or a number", other)),
    };
    Ok(VoteGiven { id, value, comment, tags })
}

fn tag((index, tag): (usize, Value)) -> Result<String, WireError> {
    typed(tag, format_args!("tags[{index}]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<VoteGiven, WireError> {
        vote(&mut Fields::parse(body.as_bytes())?)
    }

    #[test]
    fn a_vote_is_a_boolean_or_a_number() {
        let vote = |value: &str| read(&format!(r#"{{"id":"x","value":{value}}}"#)).map(|v| v.value);
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
        let vote = read(tagged).unwrap();
        assert_eq!((vote.id.as_str(), vote.value), ("x", 1.0));
        assert_eq!((vote.comment.as_deref(), vote.tags), (Some("nice"), vec!["a".to_owned()]));
        let bad = r#"{"id":"x","value":1,"tags":"a"}"#;
        assert!(matches!(read(bad), Err(WireError::WrongType { param, .. }) if param == "tags"));
        let bad = r#"{"id":"x","value":1,"tags":["a",1]}"#;
        assert!(matches!(read(bad), Err(WireError::WrongType { param, .. }) if param == "tags[1]"));
    }
}
