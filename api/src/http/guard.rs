//! Keeps other web sites out of a server that asks for no password on loopback.
//!
//! A page from elsewhere can make a browser send requests to 127.0.0.1, either by naming it (then
//! the browser says so in `Origin` and `Sec-Fetch-Site`) or by rebinding a name of its own to that
//! address (then `Host` holds that name). An address or `localhost` in `Host` cannot be rebound.

use std::net::IpAddr;

use axum::http::{HeaderMap, Method, StatusCode, header};

use super::metrics::Refusal;
use super::problem::Problem;

/// Which names this server answers to.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    /// Lower case, without ports.
    pub(crate) allowed_hosts: Vec<String>,
}

impl Guard {
    /// Whether a request to `path` may go on.
    pub(crate) fn check(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<(), (Refusal, Problem)> {
        if is_for_machines(path) {
            return Ok(());
        }
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
        if !self.answers_to(host) {
            let detail = format!("this server does not answer to the host name {host:?}");
            let problem = Problem::new(StatusCode::MISDIRECTED_REQUEST, "host_refused", detail)
                .hint("use its address or localhost, or add the name to server.allowed_hosts");
            return Err((Refusal::Host, problem));
        }
        if method == Method::GET || method == Method::HEAD {
            return Ok(());
        }
        let origin = headers.get(header::ORIGIN).map(|origin| origin.to_str().unwrap_or("null"));
        let site = headers.get("sec-fetch-site").and_then(|site| site.to_str().ok());
        let own_origin = origin.is_none_or(|origin| {
            origin.split_once("://").is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(host))
        });
        let own_site = site.is_none_or(|site| matches!(site, "same-origin" | "none"));
        if own_origin && own_site {
            return Ok(());
        }
        let origin = origin.unwrap_or("another site");
        let detail = format!("requests that a page of {origin} makes are refused");
        let problem = Problem::new(StatusCode::FORBIDDEN, "origin_refused", detail)
            .hint("send the request from undine's own page, or from a program without Origin");
        Err((Refusal::Origin, problem))
    }

    fn answers_to(&self, host: &str) -> bool {
        let name = without_port(host).to_ascii_lowercase();
        let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(&name);
        bare == "localhost"
            || bare.parse::<IpAddr>().is_ok()
            || self.allowed_hosts.iter().any(|allowed| allowed == bare)
    }
}

/// Probes and scrapers come under any name and learn nothing about anyone's requests.
fn is_for_machines(path: &str) -> bool {
    matches!(path, "/healthz" | "/livez" | "/readyz" | "/metrics")
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.is_empty() => {
            // In a bare IPv6 address the last group is not a port.
            if name.contains(':') && !name.ends_with(']') { host } else { name }
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &Method, path: &str, headers: &[(&'static str, &str)]) -> Option<Refusal> {
        let guard = Guard { allowed_hosts: vec!["undine.lan".to_owned()] };
        let headers = headers
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        guard.check(method, path, &headers).err().map(|(refusal, _)| refusal)
    }

    #[test]
    fn addresses_localhost_and_allowed_names_are_answered() {
        for host in [
            "127.0.0.1:7117",
            "localhost",
            "LOCALHOST:1",
            "[::1]:7117",
            "::1",
            "10.0.0.5",
            "undine.lan",
            "Undine.lan:7117",
        ] {
            assert_eq!(check(&Method::GET, "/", &[("host", host)]), None, "{host}");
        }
    }

    #[test]
    fn a_name_that_could_be_rebound_is_refused_for_reading_and_writing() {
        for host in ["evil.example", "evil.example:7117", "127.0.0.1.evil.example", "", ":80"] {
            for method in [Method::GET, Method::POST] {
                let refusal = check(&method, "/api/v1/incidents", &[("host", host)]);
                assert_eq!(refusal, Some(Refusal::Host), "{host}");
            }
        }
    }

    #[test]
    fn probes_and_scrapers_may_use_any_name() {
        for path in ["/healthz", "/readyz", "/metrics"] {
            assert_eq!(check(&Method::GET, path, &[("host", "node-7.cluster")]), None);
        }
    }

    #[test]
    fn another_sites_page_may_not_post() {
        let post = |more: &[(&'static str, &str)]| {
            let mut headers = vec![("host", "localhost:7117")];
            headers.extend_from_slice(more);
            check(&Method::POST, "/api/v1/pxl:run", &headers)
        };
        assert_eq!(post(&[]), None);
        assert_eq!(post(&[("origin", "http://localhost:7117")]), None);
        assert_eq!(post(&[("origin", "http://localhost:8080")]), Some(Refusal::Origin));
        assert_eq!(post(&[("origin", "https://evil.example")]), Some(Refusal::Origin));
        assert_eq!(post(&[("origin", "null")]), Some(Refusal::Origin));
        assert_eq!(post(&[("sec-fetch-site", "cross-site")]), Some(Refusal::Origin));
        assert_eq!(post(&[("sec-fetch-site", "same-origin")]), None);
    }
}
