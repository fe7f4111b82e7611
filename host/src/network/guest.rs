// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What a guest gets before it is handed out, so that its programs find the way out by themselves: the
//! host's certificates that its own store lacks, the configuration of its package managers, and the
//! variables of every program.
//!
//! Owns the files that it writes, and nothing that the image itself wrote: a file that is there already
//! is left alone (and so wins), and the store of certificates is appended to.
//!
//! Invariant: what an image needs is found out once, at its first boot, and is the same at the next.
//! The guest is asked before sandboxed code runs in it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::try_join_all;
use serde_bytes::ByteBuf;
use waggle_protocol::{
    boot::PROXY_LOOPBACK_PORT,
    message::{
        Capabilities, EnvVar, Failure, FailureCode, PackageManager, ReadFile, User, WriteFile,
    },
};

use super::{
    registries::{Manager, Registry},
    trust::TrustStore,
};
use crate::{
    lock::lock,
    session::{LinkError, Session, WriteMode},
};

/// Where distributions keep the certificates that their programs trust, the likeliest first: Debian and
/// Alpine, Fedora, SUSE. Where none is there the first is made.
const STORES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// The host's certificates, where the tools of Debian and Alpine find them when they write the store anew, and where
/// Node, which brings a store of its own, is told to look.
const ADDED: &str = "/usr/local/share/ca-certificates/waggle.crt";

/// apt takes every file of this folder, and what comes later in the alphabet wins.
const APT_CONF: &str = "/etc/apt/apt.conf.d/80waggle";

/// apt's sources, where the operator names its repositories.
const APT_SOURCES: &str = "/etc/waggle/apt-sources.list";

/// pip's configuration for all users that is read first, so that an image's /etc/pip.conf wins.
const PIP_CONF: &str = "/etc/xdg/pip/pip.conf";

/// Where npm's own configuration may be, which says where the one for all users is: Debian's npm,
/// others' in /usr, and what is unpacked from Node's own archives.
const NPM_BUILTIN: [&str; 3] = [
    "/usr/share/nodejs/npm/npmrc",
    "/usr/lib/node_modules/npm/npmrc",
    "/usr/local/lib/node_modules/npm/npmrc",
];

/// npm's configuration of the user `sandbox`.
const NPM_USER: &str = "/home/sandbox/.npmrc";

/// Most bytes of a store that are read: ten times what distributions ship.
const STORE_MAX: u64 = 2 * 1024 * 1024;

/// Most bytes of a configuration file that are read.
const CONF_MAX: u64 = 64 * 1024;

/// Images whose needs are remembered: more than anybody uses at a time.
const IMAGES_MAX: usize = 64;

/// Addresses that programs in the guest reach without the proxy: the guest's own.
const NO_PROXY: &str = "localhost,127.0.0.1,::1";

/// What all guests of a server get.
#[derive(Debug)]
pub struct GuestNetwork {
    trust: TrustStore,
    /// pip's index and npm's registry, as the guest is to use them.
    pip: Option<String>,
    npm: Option<String>,
    /// apt's repositories, if the operator named others than those of the recipes.
    apt: Vec<String>,
    known: Mutex<HashMap<String, Arc<Needs>>>,
}

/// What one image needs.
#[derive(Debug)]
struct Needs {
    /// The store of certificates.
    store: &'static str,
    /// What is appended to it.
    added: Bytes,
    /// Node is told of the certificates, too.
    tells_node: bool,
    /// Files that are made.
    files: Vec<(String, Bytes)>,
    /// Where npm has what it installs for all programs.
    npm_modules: Option<String>,
}

/// A guest that is prepared.
#[derive(Debug, Clone)]
pub struct Prepared {
    needs: Arc<Needs>,
    took: Duration,
}

/// The address of the proxy, and of the package mirror, in every guest.
#[must_use]
pub fn proxy_url() -> String {
    format!("http://127.0.0.1:{PROXY_LOOPBACK_PORT}")
}

impl GuestNetwork {
    /// The guests are pointed at `registries`, or where `mirror` says so at the package mirror that
    /// serves them. `recorded` are those of the recipes: what names others has to be told to apt, which
    /// finds its repositories in the image.
    #[must_use]
    pub fn new(
        trust: TrustStore,
        registries: &[Registry],
        recorded: &[Registry],
        mirror: bool,
    ) -> Self {
        let address = |manager: &Manager, path: &str| {
            let registry = registries.iter().find(|entry| entry.manager == *manager)?;
            Some(if mirror {
                format!("{}/{path}", proxy_url())
            } else {
                registry.url.to_string()
            })
        };
        Self {
            trust,
            pip: address(&Manager::Pip, "pypi/simple/"),
            npm: address(&Manager::Npm, "npm/"),
            apt: other_repositories(registries, recorded),
            known: Mutex::default(),
        }
    }

    /// Writes into a guest that just booted what it needs. `image` is the digest of its image's
    /// manifest.
    ///
    /// # Errors
    ///
    /// [`LinkError`] if the guest could not be reached. What it refuses to have written (its disk may be
    /// full, or read-only) is logged, and it does without.
    pub async fn prepare(&self, session: &Session, image: &str) -> Result<Prepared, LinkError> {
        let start = Instant::now();
        let known = lock(&self.known).get(image).cloned();
        let needs = match known {
            Some(needs) => needs,
            None => {
                let needs = Arc::new(self.inspect(session).await?);
                let mut known = lock(&self.known);
                if known.len() >= IMAGES_MAX {
                    known.clear();
                }
                known.insert(image.to_owned(), Arc::clone(&needs));
                needs
            }
        };
        needs.write(session).await?;
        let took = start.elapsed();
        Ok(Prepared { needs, took })
    }

    /// Looks at a guest whose image was not seen before.
    async fn inspect(&self, session: &Session) -> Result<Needs, LinkError> {
        let found = session.capabilities().await;
        let mut store = (STORES[0], Vec::new());
        for path in STORES {
            if let Some(bytes) = read(session, path, STORE_MAX).await? {
                store = (path, bytes);
                break;
            }
        }
        let (store, bytes) = store;
        let (added, beside) = certificates(&self.trust, &bytes);
        let tells_node = !beside.is_empty();
        let mut wanted = Vec::new();
        if tells_node {
            wanted.push((ADDED.to_owned(), beside));
        }
        if found.package_managers.contains(&PackageManager::AptGet) {
            let sources = self.apt_sources(session).await?;
            wanted.push((APT_CONF.to_owned(), apt_conf(store, sources.is_some())));
            wanted.extend(sources.map(|text| (APT_SOURCES.to_owned(), text)));
        }
        if found.pip.is_some() || found.python.is_some() {
            wanted.push((PIP_CONF.to_owned(), pip_conf(self.pip.as_deref(), store)));
        }
        let npm = npm_places(session, &found).await?;
        if let Some(Npm { config, .. }) = &npm {
            wanted.push((config.clone(), npm_conf(self.npm.as_deref())));
        }
        let there = wanted.iter().map(|(path, _)| read(session, path, CONF_MAX));
        let there = try_join_all(there).await?;
        let files = wanted.into_iter().zip(there);
        let files = files.filter_map(|(file, there)| there.is_none().then_some(file));
        Ok(Needs {
            store,
            added,
            tells_node,
            files: files.collect(),
            npm_modules: npm.map(|npm| npm.modules),
        })
    }
}

impl GuestNetwork {
    /// The repositories that the operator named, as apt's sources, if the guest is one that has the
    /// suites of Debian.
    async fn apt_sources(&self, session: &Session) -> Result<Option<Bytes>, LinkError> {
        if self.apt.is_empty() {
            return Ok(None);
        }
        let release = read(session, "/etc/os-release", CONF_MAX).await?;
        let release = release.unwrap_or_default();
        let sources = apt_sources(&self.apt, &String::from_utf8_lossy(&release));
        if sources.is_none() {
            tracing::warn!(
                "WAGGLE_NETWORK_PACKAGES names repositories of apt, which this image is not pointed at: it is not Debian"
            );
        }
        Ok(sources)
    }
}

impl Needs {
    async fn write(&self, session: &Session) -> Result<(), LinkError> {
        let store =
            (!self.added.is_empty()).then_some((self.store, &self.added, WriteMode::Append));
        let files = self
            .files
            .iter()
            .map(|(path, content)| (path.as_str(), content, WriteMode::Replace));
        let writes = store.into_iter().chain(files);
        // One after the other, on one connection: another one costs more than it gains.
        for (path, content, mode) in writes {
            let request = WriteFile {
                path: ByteBuf::from(path.as_bytes()),
                mode: None,
                create_parents: true,
                user: User::Root,
            };
            match session.write_file(request, mode, content).await {
                // Not even an older agent, which cannot append, is a reason to do without the guest.
                Err(error @ (LinkError::Failed(_) | LinkError::TooOld { .. })) => {
                    tracing::warn!(path, %error, "a guest did not take a file of its network");
                }
                outcome => outcome.map(drop)?,
            }
        }
        Ok(())
    }
}

impl Prepared {
    /// How long it took.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.took
    }

    /// Where npm has what it installs for all programs, if the image has an npm.
    #[must_use]
    pub fn npm_modules(&self) -> Option<&str> {
        self.needs.npm_modules.as_deref()
    }

    /// The variables of every program in the guest.
    #[must_use]
    pub fn variables(&self) -> Vec<EnvVar> {
        let proxy = proxy_url();
        let proxied = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];
        let mut all = Vec::new();
        let mut set = |name: &str, value: &str| {
            all.push(EnvVar {
                name: ByteBuf::from(name.as_bytes()),
                value: ByteBuf::from(value.as_bytes()),
            });
        };
        for name in proxied {
            set(name, &proxy);
            set(&name.to_lowercase(), &proxy);
        }
        set("NO_PROXY", NO_PROXY);
        set("no_proxy", NO_PROXY);
        // Node since 22.21 and 24 takes the proxy's variables if this says so.
        set("NODE_USE_ENV_PROXY", "1");
        for name in [
            "SSL_CERT_FILE",
            "REQUESTS_CA_BUNDLE",
            "PIP_CERT",
            "CURL_CA_BUNDLE",
            "GIT_SSL_CAINFO",
        ] {
            set(name, self.needs.store);
        }
        // Node has a store of its own, to which this is added. Not for nothing: reading it, Node starts half a second
        // later on an emulated machine.
        if self.needs.tells_node {
            set("NODE_EXTRA_CA_CERTS", ADDED);
        }
        all
    }
}

/// What of `trust` is appended to an image's store that holds `bytes`, and what is written beside it. That is what was
/// missing; or all that the operator named, for an image that has it in its store can have a Node that has not.
fn certificates(trust: &TrustStore, bytes: &[u8]) -> (Bytes, Bytes) {
    let missing = trust.missing_from(bytes);
    let in_a_line = bytes.last().is_some_and(|byte| *byte != b'\n');
    let added = match in_a_line && !missing.is_empty() {
        true => [b"\n", missing.as_ref()].concat().into(),
        false => missing.clone(),
    };
    let beside = match trust.is_named() {
        true => trust.pem(),
        false => missing,
    };
    (added, beside)
}

/// A file's content, if it is there, is a file, and has at most `max` bytes. What else is there counts
/// as one with nothing in it.
async fn read(session: &Session, path: &str, max: u64) -> Result<Option<Vec<u8>>, LinkError> {
    let request = ReadFile {
        path: ByteBuf::from(path.as_bytes()),
        offset: 0,
        length: None,
        user: User::Root,
    };
    match session.read_file(request, max).await {
        Ok((_, bytes)) => Ok(Some(bytes)),
        Err(LinkError::Failed(Failure {
            code: FailureCode::NotFound,
            ..
        })) => Ok(None),
        Err(LinkError::Failed(_) | LinkError::TooMuch { .. }) => Ok(Some(Vec::new())),
        Err(error) => Err(error),
    }
}

/// Where npm looks, and where it installs.
#[derive(Debug, PartialEq, Eq)]
struct Npm {
    /// The configuration of all users.
    config: String,
    /// What it installs for all programs.
    modules: String,
}

/// npm's places, if there is an npm.
async fn npm_places(session: &Session, found: &Capabilities) -> Result<Option<Npm>, LinkError> {
    let Some(npm) = &found.npm else {
        return Ok(None);
    };
    let mut builtin = Vec::new();
    for path in NPM_BUILTIN {
        if let Some(bytes) = read(session, path, CONF_MAX).await? {
            builtin = bytes;
            break;
        }
    }
    let user = read(session, NPM_USER, CONF_MAX).await?;
    let user = user.unwrap_or_default();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Npm::parse(&text(npm), &text(&builtin), &text(&user)))
}

impl Npm {
    /// npm takes `globalconfig` and `prefix` from the user's configuration or from its own; without the
    /// one it is a file below the prefix, without the other that is the folder above its program's.
    fn parse(program: &str, builtin: &str, user: &str) -> Option<Self> {
        let value = |name: &str| {
            [user, builtin].into_iter().find_map(|text| {
                let mut lines = text.lines().filter_map(|line| line.split_once('='));
                let (_, value) = lines.find(|(key, _)| key.trim() == name)?;
                let value = value.trim();
                value.starts_with('/').then(|| value.to_owned())
            })
        };
        let prefix = value("prefix").or_else(|| {
            let (folder, _) = program.rsplit_once('/')?;
            Some(folder.strip_suffix("/bin")?.to_owned())
        })?;
        let prefix = prefix.trim_end_matches('/');
        Some(Self {
            config: value("globalconfig").unwrap_or_else(|| format!("{prefix}/etc/npmrc")),
            modules: format!("{prefix}/lib/node_modules"),
        })
    }
}

/// apt's repositories in `registries`, if they are others than the `recorded` ones.
fn other_repositories(registries: &[Registry], recorded: &[Registry]) -> Vec<String> {
    let of = |all: &[Registry]| {
        let apt = all.iter().filter(|entry| entry.manager == Manager::Apt);
        apt.map(|entry| entry.url.to_string())
            .collect::<BTreeSet<_>>()
    };
    let (chosen, recorded) = (of(registries), of(recorded));
    if chosen == recorded {
        return Vec::new();
    }
    chosen.into_iter().collect()
}

/// Sources for the release of Debian that `release` (the file os-release) tells. A repository whose path
/// says "security" has the suite of that, others have the release and its updates.
fn apt_sources(repositories: &[String], release: &str) -> Option<Bytes> {
    let value = |name: &str| {
        let mut lines = release.lines().filter_map(|line| line.split_once('='));
        let (_, value) = lines.find(|(key, _)| *key == name)?;
        Some(value.trim_matches('"'))
    };
    let suite = value("VERSION_CODENAME").filter(|_| value("ID") == Some("debian"))?;
    let mut text = "# Written by Waggle: WAGGLE_NETWORK_PACKAGES names these.\n".to_owned();
    for url in repositories {
        if url.contains("security") {
            text.push_str(&format!("deb {url} {suite}-security main\n"));
        } else {
            text.push_str(&format!(
                "deb {url} {suite} main\ndeb {url} {suite}-updates main\n"
            ));
        }
    }
    Some(text.into())
}

fn apt_conf(store: &str, own_sources: bool) -> Bytes {
    let proxy = proxy_url();
    let sources = if own_sources {
        format!("Dir::Etc::sourcelist \"{APT_SOURCES}\";\nDir::Etc::sourceparts \"-\";\n")
    } else {
        String::new()
    };
    // apt does not read NO_PROXY.
    format!(
        "// Written by Waggle: there is no other way out of this environment.\n\
         Acquire::http::Proxy \"{proxy}\";\n\
         Acquire::https::Proxy \"{proxy}\";\n\
         Acquire::http::Proxy::127.0.0.1 \"DIRECT\";\n\
         Acquire::http::Proxy::localhost \"DIRECT\";\n\
         Acquire::https::CaInfo \"{store}\";\n\
         Acquire::Retries \"2\";\n\
         Acquire::http::Timeout \"60\";\n\
         Acquire::https::Timeout \"60\";\n\
         {sources}"
    )
    .into()
}

/// The proxy is in it for a pip without our variables, as under sudo. pip can except no host from it and asks it for
/// the mirror, too, in absolute form, which the proxy serves; for an index in the guest itself there is `--proxy ""`.
fn pip_conf(index: Option<&str>, store: &str) -> Bytes {
    let proxy = proxy_url();
    let index = index.map_or_else(String::new, |url| format!("index-url = {url}\n"));
    format!(
        "# Written by Waggle. /etc/pip.conf and the user's own configuration go before it.\n\
         [global]\n{index}proxy = {proxy}\ncert = {store}\ntimeout = 60\nretries = 2\n"
    )
    .into()
}

/// Its own pauses between tries, of ten seconds and a minute, are for networks that come back: whoever waits for a refusal
/// or a registry that is down is told sooner.
fn npm_conf(registry: Option<&str>) -> Bytes {
    let proxy = proxy_url();
    let registry = registry.map_or_else(String::new, |url| format!("registry={url}\n"));
    format!(
        "; Written by Waggle. The user's and the project's .npmrc go before it.\n\
         {registry}proxy={proxy}\nhttps-proxy={proxy}\nnoproxy={NO_PROXY}\n\
         fetch-retries=2\nfetch-retry-mintimeout=1000\nfetch-retry-maxtimeout=10000\nfetch-timeout=60000\n"
    )
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of an authority that signs nothing.
    const COMPANY: &str = "-----BEGIN CERTIFICATE-----
MIIBezCCASGgAwIBAgIUT3dfTs6az1rg0TtPDU93HAgIaCswCgYIKoZIzj0EAwIw
EjEQMA4GA1UEAwwHQ29tcGFueTAgFw0yNjExMjgxNjQ5NTlaGA8yMTI2MTEwNDE2
NDk1OVowEjEQMA4GA1UEAwwHQ29tcGFueTBZMBMGByqGSM49AgEGCCqGSM49AwEH
A0IABC6k/40bBMdS7IvgTNEB+EGcZf2pQWS0bZ/2T6bC3s3QRvzi4xRww57fM5mf
2RymV1fiHgZjbBal7pm+L9flHUujUzBRMB0GA1UdDgQWBBRTgBrhan638y0ISgc9
JhRZAfalpTAfBgNVHSMEGDAWgBRTgBrhan638y0ISgc9JhRZAfalpTAPBgNVHRMB
Af8EBTADAQH/MAoGCCqGSM49BAMCA0gAMEUCIQDLj3HGure7sUzRETx4CmzOsXdn
RAp0lQD7mvwFyF/PQAIgb3whQs6X2EodVDQ2V2uRlQnYSZTCow3pbUIAQzPC0q0=
-----END CERTIFICATE-----
";

    fn text(file: &Bytes) -> String {
        String::from_utf8(file.to_vec()).expect("text")
    }

    #[test]
    fn npm_is_met_where_it_looks() {
        let debian =
            "globalconfig=/etc/npmrc\nglobalignorefile=/etc/npmignore\nprefix=/usr/local\n";
        let user = "prefix=/home/sandbox/.npm-global\nfund=false\n";
        for (npm, builtin, user, config, prefix) in [
            (
                "/usr/bin/npm",
                debian,
                user,
                "/etc/npmrc",
                "/home/sandbox/.npm-global",
            ),
            (
                "/usr/bin/npm",
                "prefix = /opt/\n",
                "",
                "/opt/etc/npmrc",
                "/opt",
            ),
            ("/opt/bin/npm", "", "prefix=/a\n", "/a/etc/npmrc", "/a"),
            (
                "/opt/bin/npm",
                "",
                "prefix=${HOME}/x\n",
                "/opt/etc/npmrc",
                "/opt",
            ),
            ("/opt/bin/npm", "", "", "/opt/etc/npmrc", "/opt"),
        ] {
            let expected = Npm {
                config: config.to_owned(),
                modules: format!("{prefix}/lib/node_modules"),
            };
            assert_eq!(
                Npm::parse(npm, builtin, user),
                Some(expected),
                "{npm} {builtin} {user}"
            );
        }
        assert_eq!(Npm::parse("npm", "", ""), None);
    }

    #[test]
    fn managers_are_pointed_at_the_mirror_or_at_their_registries() {
        let registries: Vec<Registry> = [
            "pip=https://index.example/simple",
            "npm=http://npm.example/",
        ]
        .map(|text| text.parse().expect("a registry"))
        .into();
        let trust = TrustStore::load(None).expect("the system's store");
        let mirrored = GuestNetwork::new(trust.clone(), &registries, &[], true);
        assert_eq!(
            mirrored.pip.as_deref(),
            Some("http://127.0.0.1:703/pypi/simple/")
        );
        assert_eq!(mirrored.npm.as_deref(), Some("http://127.0.0.1:703/npm/"));
        let direct = GuestNetwork::new(trust.clone(), &registries, &[], false);
        assert_eq!(direct.pip.as_deref(), Some("https://index.example/simple/"));
        let none = GuestNetwork::new(trust, &[], &[], true);
        assert!(none.pip.is_none() && none.npm.is_none());
        let conf = text(&pip_conf(None, STORES[0]));
        assert!(!conf.contains("index-url"), "{conf}");
    }

    #[test]
    fn managers_without_our_variables_find_the_way_out() {
        let proxy = "http://127.0.0.1:703";
        for store in STORES {
            let pip = text(&pip_conf(Some("https://index.example/simple/"), store));
            let lines: Vec<_> = pip.lines().collect();
            assert_eq!(lines[1], "[global]", "{pip}");
            for line in [
                "index-url = https://index.example/simple/".to_owned(),
                format!("proxy = {proxy}"),
                format!("cert = {store}"),
            ] {
                assert!(lines.contains(&line.as_str()), "{line}: {pip}");
            }
            let apt = text(&apt_conf(store, false));
            for line in [
                format!("Acquire::http::Proxy \"{proxy}\";"),
                format!("Acquire::https::Proxy \"{proxy}\";"),
                format!("Acquire::https::CaInfo \"{store}\";"),
            ] {
                assert!(apt.lines().any(|known| known == line), "{line}: {apt}");
            }
        }
        let npm = text(&npm_conf(None));
        assert!(npm.contains(&format!("\nhttps-proxy={proxy}\n")), "{npm}");
    }

    #[test]
    fn node_is_told_of_what_the_operator_named_even_if_the_store_has_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("company.pem");
        std::fs::write(&path, COMPANY).expect("written");
        let named = TrustStore::load(Some(&path)).expect("a certificate");
        let all = named.pem();
        // A store that lacks it, one without a last line's end, and one that has it.
        assert_eq!(certificates(&named, b""), (all.clone(), all.clone()));
        let after = Bytes::from([b"\n", all.as_ref()].concat());
        assert_eq!(certificates(&named, b"# one"), (after, all.clone()));
        assert_eq!(certificates(&named, &all), (Bytes::new(), all));
        // The system's are no reason to tell Node, but where they were missing.
        let system = TrustStore::load(None).expect("the system's store");
        let store = system.pem();
        assert_eq!(certificates(&system, &store), (Bytes::new(), Bytes::new()));

        let told = |tells_node| {
            let needs = Needs {
                store: STORES[0],
                added: Bytes::new(),
                tells_node,
                files: Vec::new(),
                npm_modules: None,
            };
            let prepared = Prepared {
                needs: Arc::new(needs),
                took: Duration::ZERO,
            };
            let mut variables = prepared.variables().into_iter();
            let told = variables.find(|variable| variable.name == "NODE_EXTRA_CA_CERTS");
            told.map(|variable| variable.value.into_vec())
        };
        assert_eq!(told(true).as_deref(), Some(ADDED.as_bytes()));
        assert_eq!(told(false), None);
    }

    #[test]
    fn apt_is_told_of_repositories_that_the_image_does_not_know() {
        let parse = |all: &[&str]| -> Vec<Registry> {
            let all = all.iter().map(|text| text.parse().expect("a registry"));
            all.collect()
        };
        let recorded = parse(&["apt=http://a.example/debian", "pip=http://p.example/"]);
        let same = parse(&["apt=http://a.example/debian/"]);
        assert!(other_repositories(&same, &recorded).is_empty());
        let others = parse(&[
            "apt=http://b.example/debian-security",
            "apt=http://b.example/debian",
        ]);
        let others = other_repositories(&others, &recorded);
        let release = "ID=debian\nVERSION_CODENAME=\"trixie\"\n";
        let sources = text(&apt_sources(&others, release).expect("Debian"));
        let lines: Vec<_> = sources.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "deb http://b.example/debian-security/ trixie-security main",
                "deb http://b.example/debian/ trixie main",
                "deb http://b.example/debian/ trixie-updates main",
            ]
        );
        assert!(apt_sources(&others, "ID=alpine\n").is_none());
    }
}
