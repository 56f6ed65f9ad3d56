//! What a client is told when something fails, as RFC 9457 problem details.
//!
//! A client sees a message that is safe to show and an id; what caused it is logged under that id.

use std::borrow::Cow;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use ulid::Ulid;
use undine_query::Placed;

/// An answer that says what failed, on which value, and what to do.
#[derive(Debug)]
pub(crate) struct Problem(Box<Details>);

#[derive(Debug)]
struct Details {
    status: StatusCode,
    code: &'static str,
    detail: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
    diagnostics: Vec<Placed>,
    rendered: Option<String>,
    retry_after: Option<Duration>,
    id: Ulid,
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    code: &'static str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    diagnostics: &'a [Placed],
    #[serde(skip_serializing_if = "Option::is_none")]
    rendered: Option<&'a str>,
    id: String,
}

impl Problem {
    /// A problem of kind `code`, which never changes its meaning between versions.
    pub(crate) fn new(
        status: StatusCode,
        code: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self(Box::new(Details {
            status,
            code,
            detail: detail.into(),
            hint: None,
            diagnostics: Vec::new(),
            rendered: None,
            retry_after: None,
            id: Ulid::generate(),
        }))
    }

    /// A request that cannot be understood.
    pub(crate) fn bad_request(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// Our own failure: `cause` goes to the log, not to the client.
    pub(crate) fn internal(cause: &(dyn std::error::Error + 'static)) -> Self {
        let problem = Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the request failed inside undine",
        )
        .hint("look for the id in undine's log");
        problem.log(cause);
        problem
    }

    /// Writes what the client is not told, under the id that it is told.
    pub(crate) fn log(&self, cause: &(dyn std::error::Error + 'static)) {
        tracing::warn!(id = %self.0.id, code = self.0.code, cause, "request failed");
    }

    /// Adds what to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds where a script is wrong, and the same drawn under its source.
    pub(crate) fn diagnosed(mut self, diagnostics: Vec<Placed>, rendered: String) -> Self {
        self.0.diagnostics = diagnostics;
        self.0.rendered = Some(rendered);
        self
    }

    /// Adds when to come back.
    pub(crate) fn retry_after(mut self, retry_after: Duration) -> Self {
        self.0.retry_after = Some(retry_after);
        self
    }

    /// What kind of problem it is.
    #[cfg(test)]
    pub(crate) fn code(&self) -> &'static str {
        self.0.code
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let details = *self.0;
        let document = Document {
            r#type: format!("urn:undine:problem:{}", details.code),
            title: details.status.canonical_reason().unwrap_or("Problem"),
            status: details.status.as_u16(),
            code: details.code,
            detail: &details.detail,
            hint: details.hint.as_deref(),
            diagnostics: &details.diagnostics,
            rendered: details.rendered.as_deref(),
            id: details.id.to_string(),
        };
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = (details.status, Body::from(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(after) = details.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        response
    }
}
