// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! From a registry's challenge to what a request is authorized with (distribution's "token authentication
//! specification", and RFC 7617 for registries that take the login itself).
//!
//! The challenge names the token service, so whoever runs a registry names who gets the login that is meant for it. That is
//! the protocol. What is held against it: the service must be reached by TLS, unless it is on this host.

use std::fmt;
use std::time::{Duration, Instant};

use http_auth::parser::ChallengeParser;
use reqwest::header::{CONTENT_TYPE, HeaderMap, WWW_AUTHENTICATE};
use reqwest::{Client, RequestBuilder, StatusCode, Url};

use super::credentials::{Found, Login};
use super::endpoint::{read_whole, status_error};
use super::error::{RegistryError, of_request};
use super::tls::is_loopback;

/// Tokens are some kilobytes.
const LARGEST_ANSWER: u64 = 256 << 10;
/// How long a token is good for where the service does not say.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// How long a token is used at most: a lost permission shows by then.
const LONGEST_LIFE: Duration = Duration::from_secs(3600);

/// What somebody may do with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Access {
    Pull,
    Push,
}

/// What a registry wants before it answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// The login itself.
    Basic,
    /// A token of this service.
    Bearer {
        realm: String,
        service: Option<String>,
    },
}

/// What a request is authorized with.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Authorization {
    Basic(String, String),
    Bearer(String),
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic(name, _) => write!(f, "Basic({name:?}, …)"),
            Self::Bearer(_) => f.write_str("Bearer(…)"),
        }
    }
}

impl Authorization {
    pub(super) fn apply(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::Basic(name, password) => request.basic_auth(name, Some(password)),
            Self::Bearer(token) => request.bearer_auth(token),
        }
    }
}

/// An authorization, and until when it is good.
#[derive(Debug, Clone)]
pub(super) struct Granted {
    pub(super) authorization: Authorization,
    pub(super) until: Instant,
}

impl Challenge {
    /// The challenge of an answer. Where there are several, a token is preferred to the login itself.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(WWW_AUTHENTICATE).iter();
        let texts = values.filter_map(|value| value.to_str().ok());
        let mut basic = None;
        for challenge in texts.flat_map(ChallengeParser::new).flatten() {
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Self::Basic);
            }
            if !challenge.scheme.eq_ignore_ascii_case("bearer") {
                continue;
            }
            let param = |wanted: &str| {
                let mut params = challenge.params.iter();
                let found = params.find(|(name, _)| name.eq_ignore_ascii_case(wanted));
                found.map(|(_, value)| value.to_unescaped())
            };
            if let Some(realm) = param("realm") {
                return Some(Self::Bearer {
                    realm,
                    service: param("service"),
                });
            }
        }
        basic
    }
}

/// Whom to ask for what.
pub(super) struct Asking<'a> {
    pub(super) client: &'a Client,
    pub(super) host: &'a str,
    pub(super) repository: &'a str,
    pub(super) access: Access,
    pub(super) timeout: Duration,
}

impl Asking<'_> {
    /// Meets a challenge with a login, or anonymously.
    pub(super) async fn meet(
        &self,
        challenge: &Challenge,
        found: &Found,
    ) -> Result<Granted, RegistryError> {
        match (challenge, &found.login) {
            (Challenge::Basic, Some(Login::Password(name, password))) => Ok(Granted {
                authorization: Authorization::Basic(name.clone(), password.clone()),
                until: Instant::now() + LONGEST_LIFE,
            }),
            (Challenge::Basic, _) => Err(self.unauthorized(found)),
            (Challenge::Bearer { realm, service }, login) => {
                let realm = self.realm(realm)?;
                let request = self.token_request(realm, service.as_deref(), login.as_ref());
                self.token(request, found).await
            }
        }
    }

    pub(super) fn unauthorized(&self, found: &Found) -> RegistryError {
        RegistryError::Unauthorized {
            host: self.host.to_owned(),
            what: self.repository.to_owned(),
            had_login: found.login.is_some(),
            note: found.note.clone(),
        }
    }

    fn unexpected(&self, detail: &str) -> RegistryError {
        RegistryError::Unexpected {
            host: self.host.to_owned(),
            what: self.repository.to_owned(),
            detail: detail.to_owned(),
        }
    }

    fn realm(&self, realm: &str) -> Result<Url, RegistryError> {
        let url = Url::parse(realm)
            .map_err(|_| self.unexpected("with a token service that is no URL"))?;
        let private = url.scheme() == "https"
            || url.scheme() == "http" && url.host_str().is_some_and(is_loopback);
        if private {
            Ok(url)
        } else {
            Err(self.unexpected("with a token service that is not reached by https"))
        }
    }

    fn token_request(
        &self,
        mut realm: Url,
        service: Option<&str>,
        login: Option<&Login>,
    ) -> RequestBuilder {
        let actions = match self.access {
            Access::Pull => "pull",
            Access::Push => "pull,push",
        };
        let scope = format!("repository:{}:{actions}", self.repository);
        if let Some(Login::Identity(token)) = login {
            let mut form = url::form_urlencoded::Serializer::new(String::new());
            form.append_pair("grant_type", "refresh_token")
                .append_pair("refresh_token", token)
                .append_pair("client_id", "waggle")
                .append_pair("scope", &scope);
            if let Some(service) = service {
                form.append_pair("service", service);
            }
            let request = self.client.post(realm);
            return request
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form.finish());
        }
        realm.query_pairs_mut().append_pair("scope", &scope);
        if let Some(service) = service {
            realm.query_pairs_mut().append_pair("service", service);
        }
        let request = self.client.get(realm);
        match login {
            Some(Login::Password(name, password)) => request.basic_auth(name, Some(password)),
            Some(Login::Identity(_)) | None => request,
        }
    }

    async fn token(
        &self,
        request: RequestBuilder,
        found: &Found,
    ) -> Result<Granted, RegistryError> {
        const WHAT: &str = "a token";
        let response = request.send().await;
        let response = response.map_err(|error| of_request(self.host, WHAT, error))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(self.unauthorized(found));
            }
            _ => return Err(status_error(self.host, self.repository, &response)),
        }
        let body = read_whole(self.host, WHAT, response, LARGEST_ANSWER, self.timeout).await?;
        // What the parser says may quote the token.
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|_| self.unexpected("with something else than a token"))?;
        let token = answer.token.or(answer.access_token).unwrap_or_default();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(self.unexpected("with something else than a token"));
        }
        let life = answer
            .expires_in
            .map_or(DEFAULT_LIFE, Duration::from_secs)
            .min(LONGEST_LIFE);
        Ok(Granted {
            authorization: Authorization::Bearer(token),
            until: Instant::now() + life,
        })
    }
}

/// A token service's answer. It names the token by one of two names, or by both.
#[derive(serde::Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn challenge(values: &[&'static str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(value));
        }
        Challenge::of(&headers)
    }

    #[test]
    fn a_token_is_preferred_to_the_login() {
        let bearer = Some(Challenge::Bearer {
            realm: "https://auth.example/token".to_owned(),
            service: Some("r.example".to_owned()),
        });
        let value = r#"Bearer realm="https://auth.example/token",service="r.example",scope="x""#;
        assert_eq!(challenge(&[value]), bearer);
        assert_eq!(challenge(&[r#"Basic realm="x""#, value]), bearer);
        assert_eq!(challenge(&[r#"Basic realm="x""#]), Some(Challenge::Basic));
        for none in ["", "Bearer", r#"Bearer service="x""#, "Negotiate", "\"=,"] {
            assert_eq!(challenge(&[none]), None, "{none:?}");
        }
    }

    #[test]
    fn tokens_are_asked_for_privately_only() {
        super::super::tls::install_provider();
        let client = Client::new();
        let asking = Asking {
            client: &client,
            host: "r.example",
            repository: "acme/tool",
            access: Access::Pull,
            timeout: Duration::from_secs(1),
        };
        for good in ["https://auth.example/token", "http://127.0.0.1:5001/token"] {
            assert!(asking.realm(good).is_ok(), "{good}");
        }
        for bad in [
            "http://auth.example/token",
            "file:///etc/passwd",
            "/token",
            "",
        ] {
            let error = asking.realm(bad);
            assert!(
                matches!(error, Err(RegistryError::Unexpected { .. })),
                "{bad}"
            );
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let basic = Authorization::Basic("bee".to_owned(), "hunter2".to_owned());
        let bearer = Authorization::Bearer("hunter2".to_owned());
        let login = Login::Identity("hunter2".to_owned());
        let shown = format!("{basic:?} {bearer:?} {login:?}");
        assert!(
            shown.contains("bee") && !shown.contains("hunter2"),
            "{shown}"
        );
    }
}
