//! Which addresses a webhook may reach.
//!
//! A cloud's metadata service hands out credentials to whoever can make a host ask it, so
//! link-local addresses are refused unless a receiver is allowed to use them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Whether a receiver may be at a link-local or metadata address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLocal {
    /// No, which is the safe choice.
    Refused,
    /// Yes.
    Allowed,
}

/// Why a URL is not one to post to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It is not a URL.
    #[error("it is not a URL")]
    Url,
    /// It has another scheme than http or https.
    #[error("its scheme is {0}, and only http and https are posted to")]
    Scheme(String),
    /// It names no host.
    #[error("it names no host")]
    NoHost,
    /// It holds a user name or password.
    #[error("it holds credentials; use a header instead")]
    Credentials,
    /// It points to a link-local or metadata address.
    #[error(
        "{0} is a link-local address, as cloud metadata services use; allow it explicitly if it is meant"
    )]
    LinkLocal(IpAddr),
}

/// The URL that `text` holds, if it may be posted to.
pub(super) fn parse(text: &str, link_local: LinkLocal) -> Result<Url, AddressError> {
    let url: Url = text.parse().map_err(|_invalid| AddressError::Url)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(AddressError::Scheme(url.scheme().to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(AddressError::Credentials);
    }
    let host = url.host_str().ok_or(AddressError::NoHost)?;
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    match literal {
        Ok(ip) if link_local == LinkLocal::Refused && is_link_local(ip) => {
            Err(AddressError::LinkLocal(ip))
        }
        _ => Ok(url),
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    const EC2_METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    match ip.to_canonical() {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6 == EC2_METADATA,
    }
}

/// Resolves names by the system, without the addresses that are refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct GuardedResolver(pub(super) LinkLocal);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let Self(link_local) = *self;
        Box::pin(async move {
            let all: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let allowed = permitted(all, link_local)?;
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

fn permitted(
    mut addresses: Vec<SocketAddr>,
    link_local: LinkLocal,
) -> Result<Vec<SocketAddr>, AddressError> {
    if link_local == LinkLocal::Refused
        && let Some(refused) = addresses.iter().map(SocketAddr::ip).find(|ip| is_link_local(*ip))
    {
        addresses.retain(|address| !is_link_local(address.ip()));
        if addresses.is_empty() {
            return Err(AddressError::LinkLocal(refused));
        }
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_web_addresses_outside_the_metadata_range_are_posted_to() {
        let refused = |text: &str| parse(text, LinkLocal::Refused).unwrap_err();
        assert_eq!(refused("hook"), AddressError::Url);
        assert_eq!(refused("file:///etc/passwd"), AddressError::Scheme("file".to_owned()));
        assert_eq!(refused("http://me:pw@host/"), AddressError::Credentials);
        for metadata in [
            "http://169.254.169.254/latest",
            "http://[::ffff:169.254.169.254]/",
            "http://[fd00:ec2::254]/",
            "http://[fe80::1]/",
            "http://0xa9fea9fe/",
        ] {
            assert!(matches!(refused(metadata), AddressError::LinkLocal(_)), "{metadata}");
            assert!(parse(metadata, LinkLocal::Allowed).is_ok(), "{metadata}");
        }
        assert!(parse("https://hooks.example/x?y=1", LinkLocal::Refused).is_ok());
        assert!(parse("http://127.0.0.1:8080/", LinkLocal::Refused).is_ok());
    }

    #[test]
    fn a_name_that_resolves_to_a_metadata_address_is_refused() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let metadata = address("169.254.169.254:80");
        let public = address("192.0.2.1:80");
        assert!(permitted(vec![metadata], LinkLocal::Refused).is_err());
        assert_eq!(permitted(vec![metadata, public], LinkLocal::Refused).unwrap(), [public]);
        assert_eq!(permitted(vec![metadata], LinkLocal::Allowed).unwrap(), [metadata]);
    }
}
