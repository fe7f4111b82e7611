// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Who may use the port: requests that name this server, from no foreign web page, with the token if
//! there is one.
//!
//! Everything but `/health` is behind these checks. `Host` is checked against DNS rebinding, `Origin`
//! against requests of pages from elsewhere; neither is a defence against programs, which is what the
//! token is for. Of the token only a digest is kept, and the header that carried it goes no further:
//! neither can get into a log.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, HeaderValue, StatusCode, Uri,
        header::{AUTHORIZATION, HOST, ORIGIN, WWW_AUTHENTICATE},
        uri::Authority,
    },
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use sha2::{Digest as _, Sha256};

/// Shortest token: 128 bits even if it is hexadecimal digits.
const TOKEN_MIN: usize = 32;

/// Longest token file that is read; a header may not be longer either.
const TOKEN_FILE_MAX: u64 = 4096;

/// Why a token file is not used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It cannot be read.
    #[error("cannot read the token file {path}")]
    Read {
        /// Its path.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Others could take the token from it.
    #[error(
        "the token file {path} has mode {mode:04o}, so other users may read it; run chmod 600 on it"
    )]
    Exposed {
        /// Its path.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds no token that is worth the name.
    #[error(
        "the first line of the token file {path} has {length} characters; a token has at least {TOKEN_MIN}, for example from: openssl rand -hex 32"
    )]
    Short {
        /// Its path.
        path: String,
        /// Characters of its first line.
        length: usize,
    },
    /// It holds something that no header can carry.
    #[error(
        "the first line of the token file {path} has characters other than letters, digits and -._~+/="
    )]
    Characters {
        /// Its path.
        path: String,
    },
}

/// What a client must present: the digest of a bearer token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// Reads the first line of a file that only its owner can read.
    ///
    /// # Errors
    ///
    /// [`TokenError`], which never holds the token.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let name = || path.display().to_string();
        let failed = |source| TokenError::Read {
            path: name(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        // Of the open file: the path may lead elsewhere by now.
        let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(TokenError::Exposed { path: name(), mode });
        }
        let mut text = String::new();
        file.take(TOKEN_FILE_MAX)
            .read_to_string(&mut text)
            .map_err(failed)?;
        let token = text.lines().next().unwrap_or_default().trim();
        if token.len() < TOKEN_MIN {
            return Err(TokenError::Short {
                path: name(),
                length: token.chars().count(),
            });
        }
        // RFC 6750, section 2.1.
        let acceptable = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        if !token.bytes().all(acceptable) {
            return Err(TokenError::Characters { path: name() });
        }
        Ok(Self::of(token.as_bytes()))
    }

    fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// Digests are compared: how long that takes says nothing about the token.
    fn admits(&self, presented: &[u8]) -> bool {
        Self::of(presented) == *self
    }
}

/// A name of this server, as it stands in `Host` and `Origin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName {
    host: String,
    /// `None` admits every port.
    port: Option<u16>,
}

impl HostName {
    /// Parses `name`, `name:port` or an address, IPv6 with or without brackets.
    ///
    /// # Errors
    ///
    /// A sentence that says what it should look like.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<std::net::Ipv6Addr>() {
            return Ok(Self::any_port(&format!("[{address}]")));
        }
        match text.parse::<Authority>() {
            Ok(authority) if !authority.as_str().contains('@') && !authority.host().is_empty() => {
                Ok(Self {
                    host: authority.host().to_ascii_lowercase(),
                    port: authority.port_u16(),
                })
            }
            _ => Err(format!(
                "{text:?} is not a host name like waggle.example.com, with :port if it matters"
            )),
        }
    }

    fn any_port(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            port: None,
        }
    }

    /// `scheme` gives the port where there is none.
    fn admits(&self, host: &str, port: Option<u16>, scheme: &str) -> bool {
        let default = if scheme == "https" { 443 } else { 80 };
        self.host.eq_ignore_ascii_case(host)
            && self
                .port
                .is_none_or(|wanted| wanted == port.unwrap_or(default))
    }
}

/// The rules that requests are held against.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// What clients must present; `None` asks for nothing.
    pub token: Option<Token>,
    /// Names of this server beside those of loopback and of the address it listens on.
    pub hosts: Vec<HostName>,
}

impl Access {
    /// Completes the rules with the names that a server at `address` has by itself. An address that
    /// stands for all of the machine's has none.
    pub(super) fn at(mut self, address: Option<SocketAddr>) -> Arc<Self> {
        let own = address
            .map(|address| address.ip())
            .filter(|ip| !ip.is_unspecified());
        // A loopback name leads to this server only if it listens there.
        if own.is_none_or(|ip| ip.is_loopback()) {
            self.hosts
                .extend(["localhost", "127.0.0.1", "[::1]"].map(HostName::any_port));
        }
        self.hosts.extend(own.map(|ip| {
            HostName::any_port(&match ip {
                std::net::IpAddr::V4(ip) => ip.to_string(),
                std::net::IpAddr::V6(ip) => format!("[{ip}]"),
            })
        }));
        Arc::new(self)
    }

    fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        self.check_host(uri, headers)?;
        self.check_origin(headers)?;
        self.check_token(headers)
    }

    fn check_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        let mut hosts = headers.get_all(HOST).iter();
        let authority = match (hosts.next(), hosts.next()) {
            (Some(host), None) => host
                .to_str()
                .ok()
                .and_then(|host| host.parse::<Authority>().ok()),
            (None, None) => uri.authority().cloned(),
            _ => None,
        };
        let authority = authority.ok_or(Refusal::NoHost)?;
        let (host, port) = (authority.host(), authority.port_u16());
        if self
            .hosts
            .iter()
            .any(|name| name.admits(host, port, "http"))
        {
            Ok(())
        } else {
            Err(Refusal::Host(authority.to_string()))
        }
    }

    /// Only browsers send it; no program has to.
    fn check_origin(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let admitted = |origin: &HeaderValue| {
            let uri = origin.to_str().ok()?.parse::<Uri>().ok()?;
            let scheme = uri
                .scheme_str()
                .filter(|name| matches!(*name, "http" | "https"))?;
            let (host, port) = (uri.host()?, uri.port_u16());
            let admits = |name: &HostName| name.admits(host, port, scheme);
            self.hosts.iter().any(admits).then_some(())
        };
        for origin in headers.get_all(ORIGIN) {
            if admitted(origin).is_none() {
                return Err(Refusal::Origin(
                    String::from_utf8_lossy(origin.as_bytes()).into_owned(),
                ));
            }
        }
        Ok(())
    }

    fn check_token(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(token) = &self.token else {
            return Ok(());
        };
        let mut given = headers.get_all(AUTHORIZATION).iter();
        match (given.next().map(HeaderValue::as_bytes), given.next()) {
            (None, _) => Err(Refusal::NoToken),
            (Some(header), None) if bearer(header).is_some_and(|text| token.admits(text)) => Ok(()),
            _ => Err(Refusal::Token),
        }
    }
}

/// The token in an `Authorization` header of the scheme Bearer.
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked(b"bearer ".len())?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| token.trim_ascii())
}

/// Why a request goes no further.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the request has not one Host header that names this server")]
    NoHost,
    #[error("the host {0:?} is not a name of this server; WAGGLE_ALLOWED_HOSTS adds names")]
    Host(String),
    #[error("requests of web pages from {0:?} are not allowed; WAGGLE_ALLOWED_HOSTS adds hosts")]
    Origin(String),
    #[error("this server asks for a bearer token: send the header Authorization: Bearer TOKEN")]
    NoToken,
    #[error("this is not the token of this server")]
    Token,
}

impl Refusal {
    fn into_response(self) -> Response {
        let status = match self {
            Self::NoHost => StatusCode::BAD_REQUEST,
            Self::Host(_) | Self::Origin(_) => StatusCode::FORBIDDEN,
            Self::NoToken | Self::Token => StatusCode::UNAUTHORIZED,
        };
        // RFC 6750, section 3: no error code for a client that did not try.
        let challenge = match self {
            Self::NoToken => Some(r#"Bearer realm="waggle""#),
            Self::Token => Some(r#"Bearer realm="waggle", error="invalid_token""#),
            _ => None,
        };
        let mut response = (status, self.to_string()).into_response();
        if let Some(challenge) = challenge {
            response
                .headers_mut()
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}

/// Lets a request through that the rules admit. Whoever watches over the server's health needs no
/// token, and learns nothing but that.
pub(super) async fn guard(
    State(access): State<Arc<Access>>,
    mut request: Request,
    next: Next,
) -> Response {
    if request.uri().path() != "/health" {
        if let Err(refusal) = access.check(request.uri(), request.headers()) {
            tracing::warn!(reason = %refusal, "refused a request");
            return refusal.into_response();
        }
        request.headers_mut().remove(AUTHORIZATION);
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn file(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn a_token_is_the_first_line_of_a_private_file() {
        for mode in [0o600, 0o400] {
            let file = file(&format!("{SECRET}\nmore\n"), mode);
            let token = Token::read(file.path()).unwrap();
            assert!(token.admits(SECRET.as_bytes()));
            assert!(!token.admits(&SECRET.as_bytes()[1..]));
            assert!(!token.admits(b""));
            assert!(!format!("{token:?}").contains("0123"));
        }
    }

    #[test]
    fn other_token_files_are_refused_without_showing_them() {
        let long = SECRET.repeat(2);
        for (text, mode, reason) in [
            (SECRET, 0o640, "chmod 600"),
            (SECRET, 0o604, "chmod 600"),
            (&SECRET[1..], 0o600, "31 characters"),
            ("", 0o600, "0 characters"),
            (&format!("\n{SECRET}"), 0o600, "0 characters"),
            (&long.replace('7', " "), 0o600, "characters other than"),
            (&long.replace('7', "é"), 0o600, "characters other than"),
        ] {
            let file = file(text, mode);
            let error = Token::read(file.path()).unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
            assert!(!error.contains("abcdef"), "{error}");
        }
        let error = Token::read(Path::new("/nowhere/token")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/token"), "{error}");
    }

    fn status(access: &Access, headers: &[(&'static str, &str)]) -> u16 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        match access.check(&Uri::from_static("/mcp"), &map) {
            Ok(()) => 200,
            Err(refusal) => refusal.into_response().status().as_u16(),
        }
    }

    #[test]
    fn only_names_of_this_server_pass() {
        let access = Access::default().at("127.0.0.7:8080".parse().ok());
        for host in [
            "localhost",
            "localhost:8080",
            "LOCALHOST:1",
            "127.0.0.1:9",
            "[::1]:8080",
            "127.0.0.7",
        ] {
            assert_eq!(status(&access, &[("host", host)]), 200, "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.2",
            "user@evil.example:80",
        ] {
            assert_eq!(status(&access, &[("host", host)]), 403, "{host}");
        }
        assert_eq!(status(&access, &[]), 400);
        assert_eq!(status(&access, &[("host", "")]), 400);
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(status(&access, &twice), 400);
    }

    #[test]
    fn only_pages_of_this_server_pass() {
        let access = Access::default().at("127.0.0.1:8080".parse().ok());
        for (origin, expected) in [
            ("http://localhost:6274", 200),
            ("http://127.0.0.1", 200),
            ("http://[::1]:80", 200),
            ("https://localhost", 200),
            ("http://evil.example", 403),
            ("http://localhost.evil.example", 403),
            ("file://localhost", 403),
            ("null", 403),
            ("", 403),
        ] {
            let headers = [("host", "localhost"), ("origin", origin)];
            assert_eq!(status(&access, &headers), expected, "{origin}");
        }
    }

    #[test]
    fn an_operator_adds_names() {
        let hosts = ["waggle.example", "other.example:8443", "fe80::7"];
        let access = Access {
            token: None,
            hosts: hosts.map(|host| HostName::parse(host).unwrap()).to_vec(),
        };
        let access = access.at("192.0.2.1:8080".parse().ok());
        for (host, expected) in [
            ("waggle.example", 200),
            ("waggle.example:9", 200),
            ("other.example:8443", 200),
            ("other.example", 403),
            ("other.example:8444", 403),
            ("[fe80::7]:1", 200),
            ("192.0.2.1:8080", 200),
            // It does not listen there.
            ("localhost:8080", 403),
        ] {
            assert_eq!(status(&access, &[("host", host)]), expected, "{host}");
        }
        let origin = |origin| [("host", "waggle.example"), ("origin", origin)];
        assert_eq!(status(&access, &origin("https://waggle.example")), 200);
        assert_eq!(status(&access, &origin("https://other.example:8443")), 200);
        assert_eq!(status(&access, &origin("https://other.example")), 403);
        for bad in ["", "a b", "user@host", "https://host"] {
            assert!(HostName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_address_of_all_addresses_is_no_name() {
        let access = Access::default().at("0.0.0.0:8080".parse().ok());
        assert_eq!(status(&access, &[("host", "0.0.0.0:8080")]), 403);
        assert_eq!(status(&access, &[("host", "localhost:8080")]), 200);
    }

    #[test]
    fn a_token_is_asked_for_and_compared() {
        let access = Access {
            token: Some(Token::of(SECRET.as_bytes())),
            hosts: Vec::new(),
        };
        let access = access.at(None);
        let with =
            |value: &str| status(&access, &[("host", "localhost"), ("authorization", value)]);
        assert_eq!(status(&access, &[("host", "localhost")]), 401);
        assert_eq!(with(&format!("Bearer {SECRET}")), 200);
        assert_eq!(with(&format!("bearer  {SECRET}")), 200);
        assert_eq!(with(&format!("Basic {SECRET}")), 401);
        assert_eq!(with(&format!("Bearer {SECRET}0")), 401);
        assert_eq!(with("Bearer"), 401);
        assert_eq!(with(SECRET), 401);
        let value = format!("Bearer {SECRET}");
        let twice = [
            ("host", "localhost"),
            ("authorization", value.as_str()),
            ("authorization", value.as_str()),
        ];
        assert_eq!(status(&access, &twice), 401);
    }
}
