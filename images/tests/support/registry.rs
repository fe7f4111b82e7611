// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Debian's `docker-registry` on loopback, in a folder of its own, for as long as the value lives.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use waggle_images::registry::CredentialSources;
use waggle_images::{Reference, RegistryOptions};

use super::{run, token};

/// What a registry wants of its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// Plain HTTP, for everybody.
    Plain,
    /// Plain HTTP, with a login (htpasswd, bcrypt).
    Login,
    /// TLS by an authority of its own.
    Tls,
    /// TLS and a login.
    TlsLogin,
    /// Plain HTTP, with tokens of a service: everybody may pull, who logs in may push (see `token`).
    Token,
}

/// Who may log in.
pub(crate) const USER: &str = "bee";
/// With what. It is in no output of ours.
pub(crate) const PASSWORD: &str = "correct-horse-battery";

/// A running registry.
pub(crate) struct Registry {
    /// `127.0.0.1:PORT`, as references name it.
    pub(crate) address: String,
    /// The authority's certificate, of the variants with TLS.
    pub(crate) ca: Option<PathBuf>,
    /// Its data, its log, and room for what a test makes.
    pub(crate) dir: tempfile::TempDir,
    variant: Variant,
    child: Child,
}

impl Registry {
    /// Starts one and waits until it accepts connections.
    pub(crate) fn start(variant: Variant) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let ca = variant.is_tls().then(|| certify(dir.path()));
        if variant.has_login() {
            let file = run(dir.path(), "htpasswd", &["-Bbn", USER, PASSWORD]);
            fs::write(dir.path().join("htpasswd"), file.stdout).expect("a password file");
        }
        let realm = (variant == Variant::Token).then(|| token::start(dir.path()));
        // A port that was free may be taken a moment later: then the next one.
        for _ in 0..10 {
            let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let address = free.local_addr().expect("its address").to_string();
            drop(free);
            if let Some(child) = start_at(dir.path(), &address, variant, realm.as_deref()) {
                return Self {
                    address,
                    ca,
                    dir,
                    variant,
                    child,
                };
            }
        }
        panic!("docker-registry does not start:\n{}", log(dir.path()));
    }

    /// A reference to something here.
    pub(crate) fn reference(&self, name: &str) -> Reference {
        let text = format!("{}/{name}", self.address);
        text.parse().expect("a reference")
    }

    /// `docker://…`, as skopeo names it.
    pub(crate) fn skopeo(&self, name: &str) -> String {
        format!("docker://{}/{name}", self.address)
    }

    /// What skopeo and buildah need to reach it, `--SIDEtls-verify` and the like. `side` is `src-`, `dest-` or empty.
    pub(crate) fn flags(&self, side: &str) -> Vec<String> {
        let mut flags = Vec::new();
        match &self.ca {
            None => flags.push(format!("--{side}tls-verify=false")),
            Some(ca) => {
                let folder = ca.parent().expect("a folder");
                flags.push(format!("--{side}cert-dir={}", folder.display()));
            }
        }
        if self.variant != Variant::Plain && self.variant != Variant::Tls {
            flags.push(format!("--{side}creds={USER}:{PASSWORD}"));
        }
        flags
    }

    /// Puts an image of a layout there, by skopeo.
    pub(crate) fn put(&self, layout: &Path, tag: &str, name: &str) {
        let source = format!("oci:{}:{tag}", layout.display());
        let flags = self.flags("dest-");
        let target = self.skopeo(name);
        let mut arguments = vec!["copy", "--insecure-policy", "--quiet"];
        arguments.extend(flags.iter().map(String::as_str));
        arguments.extend([source.as_str(), target.as_str()]);
        run(self.dir.path(), "skopeo", &arguments);
    }

    /// The file of a blob in the registry's own storage.
    pub(crate) fn blob_file(&self, hex: &str) -> PathBuf {
        let blobs = self.dir.path().join("data/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }

    /// Options that reach it: its authority, no login, nothing of this process' user.
    pub(crate) fn options(&self) -> RegistryOptions {
        RegistryOptions {
            ca_bundle: self.ca.clone(),
            ..options()
        }
    }

    /// Logins for it in a docker `config.json`.
    pub(crate) fn credentials(&self, user: &str, password: &str) -> CredentialSources {
        let file = self.dir.path().join("config.json");
        write_login(&file, &self.address, user, password);
        CredentialSources {
            files: vec![file],
            ..CredentialSources::default()
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the registry's log:\n{}", log(self.dir.path()));
        }
    }
}

impl Variant {
    fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::TlsLogin)
    }

    fn has_login(self) -> bool {
        matches!(self, Self::Login | Self::TlsLogin)
    }
}

/// Options that take nothing from this host, and do not wait long.
pub(crate) fn options() -> RegistryOptions {
    let mut options = RegistryOptions {
        certificate_folders: Vec::new(),
        credentials: CredentialSources::default(),
        ..RegistryOptions::default()
    };
    options.retries.first = Duration::from_millis(5);
    options
}

/// Writes a docker `config.json` with one login.
pub(crate) fn write_login(file: &Path, key: &str, user: &str, password: &str) {
    let config =
        serde_json::json!({ "auths": { key: { "username": user, "password": password } } });
    fs::write(file, config.to_string()).expect("a credential file");
}

fn start_at(dir: &Path, address: &str, variant: Variant, realm: Option<&str>) -> Option<Child> {
    let mut config = format!(
        "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
         http:\n  addr: {address}\n",
        dir.join("data").display()
    );
    if variant.is_tls() {
        let (certificate, key) = (dir.join("server.crt"), dir.join("server.key"));
        config += &format!(
            "  tls: {{certificate: {}, key: {}}}\n",
            certificate.display(),
            key.display()
        );
    }
    if variant.has_login() {
        let file = dir.join("htpasswd");
        config += &format!(
            "auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
            file.display()
        );
    }
    if let Some(realm) = realm {
        let bundle = dir.join("token.crt");
        config += &format!(
            "auth: {{token: {{realm: \"{realm}\", service: registry, issuer: test, rootcertbundle: {}}}}}\n",
            bundle.display()
        );
    }
    let file = dir.join("config.yml");
    fs::write(&file, config).expect("a configuration");
    let output = File::create(dir.join("log")).expect("a log");
    let mut child = Command::new("docker-registry")
        .arg("serve")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("a second handle"))
        .stderr(output)
        .spawn()
        .expect("docker-registry is installed");
    let give_up = Instant::now() + Duration::from_secs(30);
    while Instant::now() < give_up {
        if child.try_wait().expect("its state").is_some() {
            return None;
        }
        if TcpStream::connect(address).is_ok() {
            return Some(child);
        }
        thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

/// An authority, and a certificate of it for this host (`server.crt`, `server.key`). Returns the authority's certificate,
/// alone in its folder.
pub(crate) fn certify(dir: &Path) -> PathBuf {
    let certs = dir.join("certs");
    fs::create_dir(&certs).expect("a folder");
    let ca = certs.join("ca.crt");
    let ca_text = ca.display().to_string();
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ];
    let mut arguments = vec!["req", "-x509", "-days", "30", "-subj", "/CN=test authority"];
    arguments.extend(key);
    arguments.extend(["-keyout", "ca.key", "-out", &ca_text]);
    run(dir, "openssl", &arguments);
    let mut arguments = vec!["req", "-subj", "/CN=registry"];
    arguments.extend(key);
    arguments.extend(["-keyout", "server.key", "-out", "server.csr"]);
    run(dir, "openssl", &arguments);
    let names = "subjectAltName=IP:127.0.0.1,IP:0.0.0.0,DNS:localhost\nbasicConstraints=CA:FALSE\n";
    fs::write(dir.join("names"), names).expect("a file");
    let arguments = [
        "x509",
        "-req",
        "-days",
        "30",
        "-in",
        "server.csr",
        "-CA",
        &ca_text,
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-extfile",
        "names",
        "-out",
        "server.crt",
    ];
    run(dir, "openssl", &arguments);
    ca
}

fn log(dir: &Path) -> String {
    let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
    let mut last: Vec<_> = log.lines().rev().take(40).collect();
    last.reverse();
    last.join("\n")
}
