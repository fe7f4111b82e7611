// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Where a registry's answers may lead: redirects, places for uploads, token services.
//!
//! Whoever runs a registry writes these answers, so they are held against rules that are ours. It decides, and asks nobody.
//!
//! - A login is for the registry's own origin: scheme, host and port. A way that has left it takes no login any more, also
//!   not back to it.
//! - Nothing leads from TLS to plain HTTP, and plain HTTP stays on this host.
//! - A registry elsewhere leads to nothing on this host.
//!
//! (HTTP clients that follow redirects by themselves compare each hop with the one before, and so send at the second what
//! they held back at the first.)

use reqwest::header::{HeaderMap, LOCATION};
use reqwest::{StatusCode, Url};
use url::Origin;

use super::tls::is_loopback;

/// Registries redirect once, to where the blobs are.
const MOST_HOPS: usize = 5;

/// Why an answer is not followed. Without the place itself, which may hold a signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Astray {
    #[error("more than {MOST_HOPS} redirects")]
    TooMany,
    #[error("a redirect where none is followed")]
    Unexpected,
    #[error("no place to go on at")]
    Nowhere,
    #[error("a place of the scheme {0:?}")]
    Scheme(String),
    #[error("a place that has a login in it")]
    Login,
    #[error("a redirect from https to plain http")]
    Downgrade,
    #[error("a place at {0:?} that is reached by plain http")]
    Plain(String),
    #[error("a place on the host that asks, {0:?}")]
    ThisHost(String),
}

/// The way that one request takes.
#[derive(Debug)]
pub(super) struct Walk {
    at: Url,
    home: Origin,
    left: bool,
    hops: usize,
}

impl Walk {
    /// Begins at the registry.
    pub(super) fn new(start: Url) -> Self {
        Self {
            home: start.origin(),
            at: start,
            left: false,
            hops: 0,
        }
    }

    pub(super) fn at(&self) -> &Url {
        &self.at
    }

    /// Whether it has been nowhere but at the registry: then the login may be sent, and a challenge met.
    pub(super) fn is_home(&self) -> bool {
        !self.left
    }

    /// Goes on to where a redirect leads.
    pub(super) fn follow(&mut self, headers: &HeaderMap) -> Result<(), Astray> {
        if self.hops == MOST_HOPS {
            return Err(Astray::TooMany);
        }
        let next = place(&self.at, headers)?;
        if self.at.scheme() == "https" && next.scheme() != "https" {
            return Err(Astray::Downgrade);
        }
        self.hops += 1;
        self.left |= next.origin() != self.home;
        self.at = next;
        Ok(())
    }
}

/// Whether an answer is a redirect (RFC 9110, 15.4).
pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Where an upload goes on that was asked for there: at the same origin, or elsewhere by TLS. Plain HTTP is not for other
/// ports of this host, where it would write to what never asked for it.
pub(super) fn upload(asked: &Url, headers: &HeaderMap) -> Result<Url, Astray> {
    let next = place(asked, headers)?;
    if next.origin() == asked.origin() || next.scheme() == "https" {
        Ok(next)
    } else {
        Err(Astray::Plain(host(&next)))
    }
}

/// Whether something that is reached over the network as `from` is may lead there.
pub(super) fn may_lead(from: &str, to: &Url) -> Result<(), Astray> {
    let (here, there) = (is_loopback(from), is_loopback(&host(to)));
    if !matches!(to.scheme(), "http" | "https") {
        return Err(Astray::Scheme(to.scheme().to_owned()));
    }
    // The HTTP client would send it as one of ours.
    if !to.username().is_empty() || to.password().is_some() {
        return Err(Astray::Login);
    }
    if there && !here {
        return Err(Astray::ThisHost(host(to)));
    }
    if to.scheme() == "http" && !there {
        return Err(Astray::Plain(host(to)));
    }
    Ok(())
}

/// The place that an answer names, which may be relative.
fn place(from: &Url, headers: &HeaderMap) -> Result<Url, Astray> {
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let next = location.and_then(|location| from.join(location).ok());
    let next = next.ok_or(Astray::Nowhere)?;
    may_lead(&host(from), &next)?;
    Ok(next)
}

fn host(url: &Url) -> String {
    url.host_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn to(location: &str) -> HeaderMap {
        let value = HeaderValue::from_str(location).expect("a header");
        HeaderMap::from_iter([(LOCATION, value)])
    }

    fn walk(start: &str) -> Walk {
        Walk::new(start.parse().expect("a URL"))
    }

    #[test]
    fn a_way_that_left_the_registry_is_never_home_again() {
        let mut way = walk("https://r.example/v2/x");
        for (location, home) in [
            ("/v2/y", true),
            ("https://r.example:443/v2/z", true),
            ("https://cdn.example/z", false),
            ("/again", false),
            ("https://r.example/v2/x", false),
        ] {
            assert_eq!(way.follow(&to(location)), Ok(()), "{location}");
            assert_eq!(way.is_home(), home, "{location}");
        }
        assert_eq!(way.follow(&to("/more")), Err(Astray::TooMany));
        assert_eq!(way.at().as_str(), "https://r.example/v2/x");
    }

    #[test]
    fn another_port_or_scheme_is_another_place() {
        for (start, location) in [
            ("https://r.example/x", "https://r.example:5000/x"),
            ("http://127.0.0.1:5000/x", "http://127.0.0.1:5001/x"),
            ("http://127.0.0.1:5000/x", "https://127.0.0.1:5000/x"),
            ("http://127.0.0.1:5000/x", "http://localhost:5000/x"),
        ] {
            let mut way = walk(start);
            assert_eq!(way.follow(&to(location)), Ok(()), "{location}");
            assert!(!way.is_home(), "{location}");
        }
    }

    #[test]
    fn what_leads_astray_is_not_followed() {
        let plain = |host: &str| Astray::Plain(host.to_owned());
        let here = |host: &str| Astray::ThisHost(host.to_owned());
        for (start, location, wrong) in [
            (
                "https://r.example/x",
                "http://r.example/x",
                plain("r.example"),
            ),
            (
                "https://r.example/x",
                "http://127.0.0.1/x",
                here("127.0.0.1"),
            ),
            (
                "https://r.example/x",
                "https://localhost/x",
                here("localhost"),
            ),
            (
                "https://r.example/x",
                "https://2130706433/x",
                here("127.0.0.1"),
            ),
            (
                "https://127.0.0.1/x",
                "http://127.0.0.1/x",
                Astray::Downgrade,
            ),
            ("http://127.0.0.1/x", "http://10.0.0.1/x", plain("10.0.0.1")),
            ("http://[::1]/x", "http://[::2]/x", plain("[::2]")),
            ("http://127.0.0.1/x", "http://0.0.0.0/x", plain("0.0.0.0")),
            (
                "https://r.example/x",
                "https://a:b@r.example/x",
                Astray::Login,
            ),
            (
                "https://r.example/x",
                "file:///etc/passwd",
                Astray::Scheme("file".to_owned()),
            ),
            ("https://r.example/x", "https://", Astray::Nowhere),
        ] {
            assert_eq!(walk(start).follow(&to(location)), Err(wrong), "{location}");
        }
        let nowhere = walk("https://r.example/x").follow(&HeaderMap::new());
        assert_eq!(nowhere, Err(Astray::Nowhere));
    }

    #[test]
    fn an_upload_goes_to_the_registry_or_by_tls() {
        let at = |asked: &str, location: &str| {
            let asked = asked.parse().expect("a URL");
            upload(&asked, &to(location)).map(|url| url.to_string())
        };
        let (local, remote) = ("http://127.0.0.1:5000/v2/", "https://r.example/v2/");
        for (asked, location, there) in [
            (local, "/up?state=1", "http://127.0.0.1:5000/up?state=1"),
            (local, "https://cdn.example/up", "https://cdn.example/up"),
            (remote, "https://r.example/up", "https://r.example/up"),
            (remote, "https://cdn.example/up", "https://cdn.example/up"),
        ] {
            assert_eq!(at(asked, location).as_deref(), Ok(there));
        }
        for (asked, location) in [
            (local, "http://127.0.0.1:80/up"),
            (local, "http://10.0.0.1/up"),
            (remote, "http://r.example/up"),
            (remote, "https://127.0.0.1/up"),
        ] {
            assert!(at(asked, location).is_err(), "{location}");
        }
    }
}
