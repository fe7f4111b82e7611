// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! From a registry's challenge to what a request is authorized with (distribution's "token authentication
//! specification", and RFC 7617 for registries that take the login itself).
//!
//! The challenge names the token service, so whoever runs a registry names who gets the login that is meant for it. That is
//! the protocol. What is held against it: the service must be reached by TLS, but where registry and service are both on
//! this host; and it gets the login itself, for it may not redirect.

use std::time::{Duration, Instant};

use http_auth::parser::ChallengeParser;
use oci_client::RegistryOperation;
use oci_client::secrets::RegistryAuth;
use oci_client::token_cache::RegistryToken;
use reqwest::header::{CONTENT_TYPE, HeaderMap, WWW_AUTHENTICATE};
use reqwest::{Client, RequestBuilder, StatusCode, Url};

use super::answer::{read_whole, send, status_error};
use super::credentials::{Found, Login};
use super::error::RegistryError;
use super::grants::Granted;
use super::redirect::{is_redirect, may_lead};

/// Tokens are some kilobytes.
const LARGEST_ANSWER: u64 = 256 << 10;
/// How long a token is good for where the service does not say.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// How long a token is used at most: a lost permission shows by then.
const LONGEST_LIFE: Duration = Duration::from_secs(3600);

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

/// A request with what authorizes it.
pub(super) fn authorized(request: RequestBuilder, authorization: &RegistryAuth) -> RequestBuilder {
    match authorization {
        RegistryAuth::Anonymous => request,
        RegistryAuth::Basic(name, password) => request.basic_auth(name, Some(password)),
        RegistryAuth::Bearer(token) => request.bearer_auth(token),
    }
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
    pub(super) access: RegistryOperation,
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
                authorization: RegistryAuth::Basic(name.clone(), password.clone()),
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
        may_lead(self.host, &url)
            .map_err(|astray| self.unexpected(&format!("with a token service that is {astray}")))?;
        Ok(url)
    }

    fn token_request(
        &self,
        mut realm: Url,
        service: Option<&str>,
        login: Option<&Login>,
    ) -> RequestBuilder {
        let actions = match self.access {
            RegistryOperation::Pull => "pull",
            RegistryOperation::Push => "pull,push",
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
        let response = send(self.host, WHAT, request, self.timeout).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(self.unauthorized(found));
            }
            status if is_redirect(status) => {
                return Err(self.unexpected("with a token service that redirects"));
            }
            _ => return Err(status_error(self.host, self.repository, &response)),
        }
        let body = read_whole(self.host, WHAT, response, LARGEST_ANSWER, self.timeout).await?;
        // What the parser says may quote the token.
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|_| self.unexpected("with something else than a token"))?;
        let token = answer.token.token();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(self.unexpected("with something else than a token"));
        }
        let life = answer
            .expires_in
            .map_or(DEFAULT_LIFE, Duration::from_secs)
            .min(LONGEST_LIFE);
        Ok(Granted {
            authorization: RegistryAuth::Bearer(token.to_owned()),
            until: Instant::now() + life,
        })
    }
}

/// A token service's answer. It names the token by one of two names, or by both.
#[derive(serde::Deserialize)]
struct Answer {
    #[serde(flatten)]
    token: RegistryToken,
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
            access: RegistryOperation::Pull,
            timeout: Duration::from_secs(1),
        };
        let local = Asking {
            host: "127.0.0.1:5000",
            ..asking
        };
        let there = "https://auth.example/token";
        let here = ["http://127.0.0.1:5001/token", "https://localhost/token"];
        assert!(asking.realm(there).is_ok() && local.realm(there).is_ok());
        for here in here {
            assert!(local.realm(here).is_ok(), "{here}");
            // Another machine names no service of this one.
            assert!(asking.realm(here).is_err(), "{here}");
        }
        for bad in [
            "http://auth.example/token",
            "http://0.0.0.0/token",
            "https://a:b@auth.example/token",
            "file:///etc/passwd",
            "/token",
            "",
        ] {
            for asking in [&asking, &local] {
                let error = asking.realm(bad);
                assert!(
                    matches!(error, Err(RegistryError::Unexpected { .. })),
                    "{bad}"
                );
            }
        }
    }

    #[test]
    fn a_token_has_one_of_two_names() {
        for text in [
            r#"{"token":"x"}"#,
            r#"{"access_token":"x","token":null,"expires_in":5}"#,
            r#"{"token":"x","access_token":"y","issued_at":"now"}"#,
        ] {
            let answer: Answer = serde_json::from_str(text).expect("an answer");
            assert_eq!(answer.token.token(), "x", "{text}");
        }
        assert!(serde_json::from_str::<Answer>("{}").is_err());
    }

    #[test]
    fn debug_shows_no_secret() {
        let basic = RegistryAuth::Basic("bee".to_owned(), "hunter2".to_owned());
        let bearer = RegistryAuth::Bearer("hunter2".to_owned());
        let login = Login::Identity("hunter2".to_owned());
        let shown = format!("{basic:?} {bearer:?} {login:?}");
        assert!(
            shown.contains("bee") && !shown.contains("hunter2"),
            "{shown}"
        );
    }
}
