//! Parses the server-sent events of a streamed completion from an OpenAI-compatible server.
//!
//! Bytes in, chunks out. Pure; it does not know who sent them, or when they came.

use serde_json::Value;

/// Longest event that is kept, in bytes.
const LONGEST: usize = 4 << 20;

/// What one event says.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Chunk {
    /// Whether it has text, a tool call or thoughts: at least one token.
    pub has_token: bool,
    /// Tokens of the prompt and of the reply, and cached ones, if it is the one that tells.
    pub usage: Option<[usize; 3]>,
    /// The server's error.
    pub error: Option<String>,
    /// It is the last one.
    pub done: bool,
}

/// Takes a stream apart.
#[derive(Debug, Default)]
pub(super) struct Events {
    rest: Vec<u8>,
}

impl Events {
    /// The events that these bytes complete. Fails if one of them is not valid, or is longer than 4 MiB.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Chunk>, String> {
        self.rest.extend_from_slice(bytes);
        let mut chunks = Vec::new();
        let mut from = 0;
        while let Some(length) = self.rest[from..].iter().position(|byte| *byte == b'\n') {
            let line = self.rest[from..from + length].trim_ascii_end();
            if let Some(data) = line.strip_prefix(b"data:") {
                chunks.push(chunk(data.trim_ascii_start())?);
            }
            from += length + 1;
        }
        self.rest.drain(..from);
        match self.rest.len() > LONGEST {
            true => Err(format!("an event of the server is longer than {LONGEST} bytes")),
            false => Ok(chunks),
        }
    }
}

fn chunk(data: &[u8]) -> Result<Chunk, String> {
    if data == b"[DONE]" {
        return Ok(Chunk { done: true, ..Chunk::default() });
    }
    let value: Value = serde_json::from_slice(data)
        .map_err(|error| format!("an event of the server is not JSON: {error}"))?;
    let choice = &value["choices"][0];
    let filled = |value: &Value| match value {
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => false,
    };
    let delta = &choice["delta"];
    let texts = [
        &delta["content"],
        &delta["reasoning_content"],
        &delta["reasoning"],
        &delta["tool_calls"],
        &choice["text"],
    ];
    Ok(Chunk {
        has_token: texts.into_iter().any(filled),
        usage: usage(&value),
        error: error(&value),
        done: false,
    })
}

/// Tokens of the prompt, tokens of the reply, and cached tokens of the prompt.
pub(super) fn usage(value: &Value) -> Option<[usize; 3]> {
    let usage = value.get("usage").filter(|usage| usage.is_object())?;
    let count = |value: &Value| value.as_u64().and_then(|count| usize::try_from(count).ok());
    let cached = count(&usage["prompt_tokens_details"]["cached_tokens"]).unwrap_or(0);
    Some([count(&usage["prompt_tokens"])?, count(&usage["completion_tokens"])?, cached])
}

/// The message of an error body.
pub(super) fn error(value: &Value) -> Option<String> {
    let error = value.get("error").filter(|error| !error.is_null())?;
    let message = error["message"].as_str().or_else(|| error.as_str());
    Some(message.unwrap_or("no reason given").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STREAM: &str = concat!(
        ": keep-alive\n\n",
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}],\"usage\":null}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"Hé\"}}]}\r\n\r\n",
        "data:{\"choices\":[{\"delta\":{\"reasoning_content\":\"so\"}}]}\n\n",
        "data: {\"choices\":[{\"text\":\" there\"}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3,\
         \"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\n",
        "data: [DONE]\n\n",
    );

    #[test]
    fn tokens_usage_and_the_end_are_seen() {
        let all = Events::default().push(STREAM.as_bytes()).unwrap();
        let tokens: Vec<bool> = all.iter().map(|chunk| chunk.has_token).collect();
        assert_eq!(tokens, [false, true, true, true, false, false]);
        assert_eq!((all[4].usage, all[5].done), (Some([7, 3, 4]), true));
    }

    #[test]
    fn errors_have_their_message() {
        let mut events = Events::default();
        let all = events.push(b"event: error\ndata: {\"error\":{\"message\":\"too long\"}}\n\n");
        assert_eq!(all.unwrap()[0].error.as_deref(), Some("too long"));
        let all = events.push(b"data: {\"error\":\"busy\"}\n");
        assert_eq!(all.unwrap()[0].error.as_deref(), Some("busy"));
        assert!(events.push(b"data: nonsense\n").is_err());
        assert!(Events::default().push(&vec![b'x'; LONGEST + 1]).is_err());
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_stream_is_cut(cuts in prop::collection::vec(0usize..500, 0..8)) {
            let whole = Events::default().push(STREAM.as_bytes()).unwrap();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut % STREAM.len()).collect();
            cuts.extend([0, STREAM.len()]);
            cuts.sort_unstable();
            let mut events = Events::default();
            let parts = cuts.windows(2).map(|cut| &STREAM.as_bytes()[cut[0]..cut[1]]);
            let found: Vec<Chunk> = parts.flat_map(|part| events.push(part).unwrap()).collect();
            prop_assert_eq!(found, whole);
        }
    }
}
