// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Logins for registries, from where `docker login`, `podman login` and `skopeo login` leave them.
//!
//! Files are asked in order, the first that has a login for the repository decides. In a file, a helper of the registry
//! (`credHelpers`) comes first, then the stored logins (`auths`), the most specific first (`HOST/a/b`, `HOST/a`, `HOST`; keys
//! with paths are the containers tools'), then the general helper (`credsStore`).
//!
//! A file or helper that is broken does not stop a pull, which may need no login. It is warned of, and told again by
//! the error if the registry does want one. A secret is in no message and no `Debug`.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use docker_credential::{CredentialRetrievalError, DockerCredential};
use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::reference::DEFAULT_REGISTRY;

/// Such files are some kilobytes.
const LARGEST_FILE: u64 = 1 << 20;
/// What a helper answers is one login.
const LARGEST_ANSWER: u64 = 64 << 10;

/// Where logins are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialSources {
    /// Files, in order. One that is not there is passed over.
    pub files: Vec<PathBuf>,
    /// Where helpers are searched, as `PATH`. None: as this process does.
    pub helper_path: Option<OsString>,
    /// How long a helper may take. It may ask a remote service, and must not ask a person.
    pub helper_timeout: Duration,
}

impl Default for CredentialSources {
    /// None at all.
    fn default() -> Self {
        Self {
            files: Vec::new(),
            helper_path: None,
            helper_timeout: Duration::from_secs(30),
        }
    }
}

impl CredentialSources {
    /// Those of this process' user: what is named by the environment first (`REGISTRY_AUTH_FILE`, `DOCKER_CONFIG`), then
    /// the containers tools' files, then docker's.
    #[must_use]
    pub fn of_user() -> Self {
        Self::of_environment(|name| std::env::var_os(name))
    }

    fn of_environment(var: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name| var(name).filter(|value| !value.is_empty());
        let path = |name| set(name).map(PathBuf::from);
        let home = path("HOME");
        let below_home = |rest: &str| home.as_ref().map(|home| home.join(rest));
        let files = [
            path("REGISTRY_AUTH_FILE"),
            path("DOCKER_CONFIG").map(|folder| folder.join("config.json")),
            path("XDG_RUNTIME_DIR").map(|folder| folder.join("containers/auth.json")),
            path("XDG_CONFIG_HOME")
                .or_else(|| below_home(".config"))
                .map(|folder| folder.join("containers/auth.json")),
            // Naming a folder is instead of this one.
            path("DOCKER_CONFIG").map_or_else(|| below_home(".docker/config.json"), |_| None),
        ];
        Self {
            files: files.into_iter().flatten().collect(),
            ..Self::default()
        }
    }

    /// The login for a repository, if there is one, and what was wrong on the way.
    pub(super) async fn find(&self, registry: &str, repository: &str) -> Found {
        let mut found = Found::default();
        for path in &self.files {
            let login = match self.find_in(path, registry, repository).await {
                Ok(login) => login,
                Err(problem) => {
                    tracing::warn!(file = %path.display(), registry, %problem, "a login could not be read");
                    let note = format!("{}: {problem}", path.display());
                    found.note.get_or_insert(note);
                    continue;
                }
            };
            if login.is_some() {
                found.login = login;
                return found;
            }
        }
        found
    }

    async fn find_in(
        &self,
        path: &Path,
        registry: &str,
        repository: &str,
    ) -> Result<Option<Login>, Problem> {
        let Some(mut config) = read(path).await? else {
            return Ok(None);
        };
        // Helpers are run here, with a deadline; the crate would wait for them without one.
        forget_empty(&mut config);
        let helpers = config.remove("credHelpers");
        let store = config.remove("credsStore");
        let names = aliases(registry);
        for name in &names {
            let helper = helpers.as_ref().and_then(|helpers| helpers.get(name));
            if let Some(helper) = helper.and_then(Value::as_str)
                && !helper.is_empty()
                && let Some(login) = self.ask(helper, name).await?
            {
                return Ok(Some(login));
            }
        }
        if let Some(login) = stored(&config, &names, repository)? {
            return Ok(Some(login));
        }
        if let Some(helper) = store.as_ref().and_then(Value::as_str)
            && !helper.is_empty()
        {
            for name in &names {
                if let Some(login) = self.ask(helper, name).await? {
                    return Ok(Some(login));
                }
            }
        }
        Ok(None)
    }

    /// Asks `docker-credential-HELPER` for a login.
    async fn ask(&self, helper: &str, server: &str) -> Result<Option<Login>, Problem> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let helper = helper.to_owned();
        if !helper.chars().all(plain) {
            return Err(Problem::HelperName { helper });
        }
        let run = run_helper(&helper, server, self.helper_path.as_ref());
        match tokio::time::timeout(self.helper_timeout, run).await {
            Err(_) => Err(Problem::HelperSlow {
                helper,
                after: self.helper_timeout,
            }),
            Ok(Err(source)) => Err(Problem::HelperRun { helper, source }),
            Ok(Ok((true, answer))) => match serde_json::from_slice::<Answer>(&answer) {
                Ok(answer) => Ok(Some(answer.into())),
                // The parser's message may quote the secret.
                Err(_) => Err(Problem::HelperAnswer { helper }),
            },
            // The protocol's way to say that there is none, on standard output.
            Ok(Ok((false, answer)))
                if String::from_utf8_lossy(&answer).contains("credentials not found") =>
            {
                Ok(None)
            }
            Ok(Ok((false, _))) => Err(Problem::HelperFailed { helper }),
        }
    }
}

/// Whether it succeeded, and what it wrote.
async fn run_helper(
    helper: &str,
    server: &str,
    path: Option<&OsString>,
) -> io::Result<(bool, Vec<u8>)> {
    let mut command = tokio::process::Command::new(format!("docker-credential-{helper}"));
    if let Some(path) = path {
        command.env("PATH", path);
    }
    let mut process = command
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = process.stdin.take() {
        // One that knows its answer may not read the question.
        let _ = stdin.write_all(server.as_bytes()).await;
    }
    let mut answer = Vec::new();
    if let Some(stdout) = process.stdout.take() {
        stdout.take(LARGEST_ANSWER).read_to_end(&mut answer).await?;
    }
    Ok((process.wait().await?.success(), answer))
}

/// A file that is not there has no logins.
async fn read(path: &Path) -> Result<Option<Map<String, Value>>, Problem> {
    let file = match tokio::fs::File::open(path).await {
        Ok(file) => file,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(source) => return Err(Problem::Unreadable(source)),
    };
    let mut text = Vec::new();
    let read = file.take(LARGEST_FILE + 1).read_to_end(&mut text).await;
    let size = read.map_err(Problem::Unreadable)?;
    if size as u64 > LARGEST_FILE {
        return Err(Problem::TooLarge);
    }
    // `skopeo login` and others leave an empty file at times.
    if text.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let config = serde_json::from_slice(&text);
    config.map(Some).map_err(|error| Problem::Malformed {
        line: error.line(),
        column: error.column(),
    })
}

/// Docker leaves an empty `auth` where the login is with a helper: that is none.
fn forget_empty(config: &mut Map<String, Value>) {
    let auths = config.get_mut("auths").and_then(Value::as_object_mut);
    for entry in auths.into_iter().flat_map(|auths| auths.values_mut()) {
        if let Some(entry) = entry.as_object_mut() {
            entry.retain(|_, value| value.as_str() != Some(""));
        }
    }
}

/// The names under which a registry's login is kept. Docker Hub's is a URL, for historical reasons.
fn aliases(registry: &str) -> Vec<String> {
    if registry != DEFAULT_REGISTRY {
        return vec![registry.to_owned()];
    }
    let hub = [
        "https://index.docker.io/v1/",
        "docker.io",
        "index.docker.io",
    ];
    hub.map(str::to_owned).to_vec()
}

/// The login that the file itself has, by the most specific key.
fn stored(
    config: &Map<String, Value>,
    names: &[String],
    repository: &str,
) -> Result<Option<Login>, Problem> {
    let mut path = Some(repository);
    while let Some(below) = path {
        for name in names.iter().filter(|name| !name.contains("://")) {
            if let Some(login) = decode(config, &format!("{name}/{below}"))? {
                return Ok(Some(login));
            }
        }
        path = below.rsplit_once('/').map(|(above, _)| above);
    }
    for name in names {
        if let Some(login) = decode(config, name)? {
            return Ok(Some(login));
        }
    }
    Ok(None)
}

fn decode(config: &Map<String, Value>, key: &str) -> Result<Option<Login>, Problem> {
    let text = serde_json::to_vec(config).unwrap_or_default();
    match docker_credential::get_credential_from_reader(text.as_slice(), key) {
        Ok(credential) => Ok(Some(credential.into())),
        Err(CredentialRetrievalError::NoCredentialConfigured) => Ok(None),
        Err(error) => {
            let reason = match error {
                CredentialRetrievalError::CredentialDecodingError => {
                    "its auth is not base64 of NAME:SECRET"
                }
                CredentialRetrievalError::CredentialMismatchError => {
                    "its auth and its username and password differ"
                }
                _ => "it is not of the expected form",
            };
            Err(Problem::Entry {
                key: key.to_owned(),
                reason,
            })
        }
    }
}

/// A login that was found, if any.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) login: Option<Login>,
    /// What was wrong on the way to it.
    pub(super) note: Option<String>,
}

/// What proves who asks.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Login {
    /// A name and its password.
    Password(String, String),
    /// What is exchanged for tokens (the distribution project's `refresh_token` grant).
    Identity(String),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password(name, _) => write!(f, "Password({name:?}, …)"),
            Self::Identity(_) => f.write_str("Identity(…)"),
        }
    }
}

impl From<DockerCredential> for Login {
    fn from(credential: DockerCredential) -> Self {
        match credential {
            DockerCredential::IdentityToken(token) => Self::Identity(token),
            DockerCredential::UsernamePassword(name, password) => Self::Password(name, password),
        }
    }
}

/// What a helper writes (docker-credential-helpers, "get").
#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

impl From<Answer> for Login {
    fn from(answer: Answer) -> Self {
        if answer.username == "<token>" {
            Self::Identity(answer.secret)
        } else {
            Self::Password(answer.username, answer.secret)
        }
    }
}

/// Why a file or a helper gives no login. Never with what was read.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("it cannot be read: {0}")]
    Unreadable(io::Error),
    #[error("it has more than {LARGEST_FILE} bytes")]
    TooLarge,
    #[error("it is not a JSON object (line {line}, column {column})")]
    Malformed { line: usize, column: usize },
    #[error("the entry of {key} cannot be used: {reason}")]
    Entry { key: String, reason: &'static str },
    #[error("{helper:?} is no helper's name")]
    HelperName { helper: String },
    #[error("docker-credential-{helper} cannot be run: {source}")]
    HelperRun { helper: String, source: io::Error },
    #[error("docker-credential-{helper} did not answer within {} s", after.as_secs())]
    HelperSlow { helper: String, after: Duration },
    #[error("docker-credential-{helper} failed")]
    HelperFailed { helper: String },
    #[error("docker-credential-{helper} answered with something else than a login")]
    HelperAnswer { helper: String },
}

#[cfg(test)]
mod tests;
