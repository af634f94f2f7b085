//! Helpers for whole bodies: keeping a value until a response has been sent, and discarding an unwanted request body.

use super::status_codes::ApiError;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// How long a client may continue to send a body that nobody wants.
const LINGER: Duration = Duration::from_secs(5);
/// For how many bytes the body of a refused request is read.
const REFUSED_BYTES: u64 = 4 << 20;

/// Keeps `kept` until the response has been sent to its end, or is dropped.
pub fn until_sent<T: Send + Unpin + 'static>(response: Response, kept: T) -> Response {
    response.map(|body| Body::new(Holding { body, _kept: kept }))
}

struct Holding<T> {
    body: Body,
    _kept: T,
}

impl<T: Unpin> HttpBody for Holding<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Reads and discards a body that nobody wants, for a limited time and at most `most` bytes. A client that is still
/// sending would otherwise find its connection closed, and never read the reason.
pub async fn discard(mut body: Body, most: u64) {
    let rest = async {
        let mut taken = 0;
        while let Some(Ok(frame)) = body.frame().await {
            taken += frame.data_ref().map_or(0, |data| data.len() as u64);
            if taken > most {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, rest).await;
}

/// Answers with an error once the body has been discarded.
pub async fn refuse(request: Request, error: ApiError) -> Response {
    // Who waits for a go-ahead does not send its body.
    if !request.headers().contains_key(header::EXPECT) {
        discard(request.into_body(), REFUSED_BYTES).await;
    }
    error.into_response()
}
