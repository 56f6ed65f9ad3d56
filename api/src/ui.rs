//! The page, kept in the binary: plain HTML, CSS and modules that need no build and nobody's network.

use std::sync::LazyLock;

use axum::body::Body;
use axum::extract::{Path, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::http::problem::Problem;

/// What the page may do: run its own modules, use its own style, ask its own server; nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const MODULE: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

struct Asset {
    name: &'static str,
    kind: &'static str,
    content: &'static str,
    etag: String,
}

macro_rules! assets {
    ($($kind:ident $name:literal,)+) => {
        [$(Asset {
            name: $name,
            kind: $kind,
            content: include_str!(concat!("../ui/", $name)),
            etag: String::new(),
        }),+]
    };
}

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    assets! {
        HTML "index.html",
        CSS "style.css",
        SVG "icon.svg",
        MODULE "main.js",
        MODULE "client.js",
        MODULE "dom.js",
        MODULE "format.js",
        MODULE "chart.js",
        MODULE "grid.js",
        MODULE "highlight.js",
        MODULE "editor.js",
        MODULE "provenance.js",
        MODULE "overview.js",
        MODULE "incidents.js",
        MODULE "query.js",
        MODULE "tables.js",
        MODULE "protocols.js",
        MODULE "panel.js",
        MODULE "host.js",
        MODULE "profile.js",
    }
    .into_iter()
    .map(|asset| {
        let digest = Sha256::digest(asset.content);
        let number = digest.iter().take(12).fold(0, |number, byte| number << 8 | u128::from(*byte));
        Asset { etag: format!("\"{number:024x}\""), ..asset }
    })
    .collect()
});

/// The page.
pub(crate) async fn page(request: Request) -> Result<Response, Problem> {
    serve("index.html", request.headers())
}

/// One of the page's parts.
pub(crate) async fn asset(
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    serve(&name, &headers)
}

fn serve(name: &str, headers: &HeaderMap) -> Result<Response, Problem> {
    let asset = ASSETS.iter().find(|asset| asset.name == name).ok_or_else(|| {
        let detail = format!("the page has no part called {name:?}");
        Problem::new(StatusCode::NOT_FOUND, "not_found", detail)
    })?;
    let is_known = headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .any(|tags| tags.to_str().is_ok_and(|tags| tags.contains(&asset.etag)));
    let (status, body) = if is_known {
        (StatusCode::NOT_MODIFIED, Body::empty())
    } else {
        (StatusCode::OK, Body::from(Bytes::from_static(asset.content.as_bytes())))
    };
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    let fixed = [
        (header::CONTENT_TYPE, asset.kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        // A new binary brings new parts under the same names, so they are always asked for.
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(etag) = HeaderValue::from_str(&asset.etag) {
        headers.insert(header::ETAG, etag);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_that_the_page_names_is_in_the_binary() {
        for asset in ASSETS.iter() {
            let mut rest = asset.content;
            while let Some((_, after)) = rest.split_once("from \"./") {
                let (name, tail) = after.split_once('"').unwrap();
                assert!(
                    ASSETS.iter().any(|other| other.name == name),
                    "{} names {name}",
                    asset.name
                );
                rest = tail;
            }
            let mut rest = asset.content;
            while let Some((_, after)) = rest.split_once("=\"/assets/") {
                let (name, tail) = after.split_once('"').unwrap();
                assert!(
                    ASSETS.iter().any(|other| other.name == name),
                    "{} names {name}",
                    asset.name
                );
                rest = tail;
            }
        }
    }

    #[test]
    fn every_file_of_the_page_is_in_the_binary_and_together_they_are_small() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/ui");
        for file in std::fs::read_dir(folder).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            assert!(ASSETS.iter().any(|asset| asset.name == name), "{name} is not served");
        }
        let bytes: usize = ASSETS.iter().map(|asset| asset.content.len()).sum();
        assert!(bytes <= 1 << 20, "the page has {bytes} bytes");
    }

    #[test]
    fn no_part_of_the_page_names_another_host() {
        for asset in ASSETS.iter() {
            for scheme in ["http://", "https://"] {
                for (at, _) in asset.content.match_indices(scheme) {
                    let named = &asset.content[at + scheme.len()..];
                    assert!(
                        named.starts_with("www.w3.org/2000/svg"),
                        "{}: {scheme}{}",
                        asset.name,
                        &named[..named.len().min(30)]
                    );
                }
            }
        }
    }
}
