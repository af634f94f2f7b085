//! Normalises requests before routing: removes extra slashes from paths, and refuses bodies with a content coding.

use super::bodies::refuse;
use super::status_codes::ApiError;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;

/// Refuses bodies with a content coding: none is decoded here.
pub async fn bodies(request: Request, next: Next) -> Response {
    let coded = request.headers().get_all(header::CONTENT_ENCODING).iter().find(|coding| {
        let plain = coding.as_bytes().trim_ascii();
        !plain.is_empty() && !plain.eq_ignore_ascii_case(b"identity")
    });
    let Some(coding) = coded else { return next.run(request).await };
    let error = ApiError::encoded(&String::from_utf8_lossy(coding.as_bytes()));
    let mut response = refuse(request, error).await;
    response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    response
}

/// A request whose path has no trailing and no double slashes.
pub async fn path(mut request: Request<Body>) -> Request<Body> {
    let path = request.uri().path();
    if let Some(plain) = without_extra_slashes(path) {
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        let mut parts = request.uri().clone().into_parts();
        if let Ok(path) = format!("{plain}{query}").parse() {
            parts.path_and_query = Some(path);
            if let Ok(uri) = parts.try_into() {
                *request.uri_mut() = uri;
            }
        }
    }
    request
}

/// The path with single slashes and none at its end; `None` if it is already like that.
fn without_extra_slashes(path: &str) -> Option<String> {
    let extra = path.contains("//") || (path.len() > 1 && path.ends_with('/'));
    extra.then(|| {
        let parts = path.split('/').filter(|part| !part.is_empty());
        format!("/{}", parts.collect::<Vec<_>>().join("/"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_that_say_nothing_are_left_out() {
        for (path, plain) in [
            ("/", None),
            ("/v1/models", None),
            ("/v1/models/", Some("/v1/models")),
            ("//v1//models", Some("/v1/models")),
            ("//", Some("/")),
            ("///v1/models/a/b///", Some("/v1/models/a/b")),
            ("/v1/../metrics/", Some("/v1/../metrics")),
        ] {
            assert_eq!(without_extra_slashes(path).as_deref(), plain, "{path}");
        }
    }
}
