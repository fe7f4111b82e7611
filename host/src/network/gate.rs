// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The network of one server, put together from its settings and from what is recorded with the images.
//!
//! Invariant: a policy that does not parse ends the start; nothing is ever permitted by mistake.

use std::{path::PathBuf, sync::Arc};

use nix::sys::resource::{Resource, getrlimit};
use url::Url;

use super::{
    dial::{Connector, Dialer},
    guest::{GuestNetwork, proxy_url},
    mirror::{self, Mirror, MirrorOptions, over_tls},
    policy::{Packages, Policy, PolicyError},
    proxy::{Gateway, Limits},
    registries::Registry,
    trust::{TrustError, TrustStore},
};

/// What the operator chose.
#[derive(Debug)]
pub struct NetworkOptions<'a> {
    /// The preset.
    pub preset: &'a str,
    /// Further entries, separated by commas.
    pub allow: &'a str,
    /// What the preset `packages` stands for, instead of what is recorded.
    pub packages: Option<&'a str>,
    /// The registries that are recorded with the images, as they stand there.
    pub recorded: &'a [String],
    /// Most bytes of one environment.
    pub max_bytes: Option<u64>,
    /// Most environments at once, which share what this process may open.
    pub environments: u16,
    /// Where the mirror keeps packages, and how many bytes; none: no mirror.
    pub mirror: Option<(PathBuf, u64)>,
    /// Whom the host and its guests trust.
    pub trust: TrustStore,
}

/// Settings that make no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The policy.
    #[error("WAGGLE_NETWORK, WAGGLE_NETWORK_ALLOW or WAGGLE_NETWORK_PACKAGES is of no use")]
    Policy(#[from] PolicyError),
    /// The certificates.
    #[error("the trust store is of no use")]
    Trust(#[from] TrustError),
}

/// The network of one server.
#[derive(Debug)]
pub struct Network {
    /// What guests are told.
    pub guest: GuestNetwork,
    /// The way out.
    pub gateway: Gateway,
}

impl Network {
    /// Puts it together. Reaches nothing yet.
    ///
    /// # Errors
    ///
    /// [`NetworkError`].
    pub fn open(options: NetworkOptions<'_>) -> Result<Self, NetworkError> {
        let recorded = recorded(options.recorded);
        let packages = match options.packages {
            Some(text) => Packages::parse(text)?,
            None => recorded.clone().into(),
        };
        let policy = Policy::parse(options.preset, options.allow, &packages)?;
        let registries = packages.registries;
        let dialer = Dialer::system();
        let mirror = match options.mirror {
            Some((dir, max_bytes)) if !registries.is_empty() => {
                // Every request is checked against its environment's own policy before it comes to this.
                let connector = Connector::new(dialer.clone(), policy.clone());
                let connector = over_tls(options.trust.client_config()?, connector);
                let options = MirrorOptions {
                    dir,
                    max_bytes,
                    registries: registries.clone(),
                    base: base(),
                    limits: mirror::Limits::default(),
                };
                Some(Arc::new(Mirror::open(options, connector)))
            }
            _ => None,
        };
        let guest = GuestNetwork::new(options.trust, &registries, &recorded, mirror.is_some());
        let limits = Limits {
            bytes: options.max_bytes,
            ..Limits::of(descriptors(), options.environments)
        };
        let gateway = Gateway::new(policy, dialer, mirror, limits);
        Ok(Self { guest, gateway })
    }
}

/// How many descriptors this process may have.
fn descriptors() -> u64 {
    // What systems start with, if this one does not say.
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
}

/// Those that are recorded and can be used.
fn recorded(texts: &[String]) -> Vec<Registry> {
    let parsed = |text: &String| match text.parse() {
        Ok(registry) => Some(registry),
        Err(error) => {
            tracing::warn!(%error, "ignored a recorded package registry");
            None
        }
    };
    texts.iter().filter_map(parsed).collect()
}

/// The mirror's address in the guests.
fn base() -> Url {
    // An address and a port are a URL.
    Url::parse(&proxy_url()).expect("http, an address and a port")
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use serde_json::json;
    use tempfile::tempdir;
    use waggle_images::{
        Digest,
        images::{Images, Options},
        recorded,
    };

    use super::*;

    fn open(preset: &str, allow: &str, packages: Option<&str>) -> Result<Network, NetworkError> {
        let recorded = [
            "pip=https://index.example/".to_owned(),
            "nonsense".to_owned(),
        ];
        open_with(&recorded, preset, allow, packages)
    }

    fn open_with(
        recorded: &[String],
        preset: &str,
        allow: &str,
        packages: Option<&str>,
    ) -> Result<Network, NetworkError> {
        Network::open(NetworkOptions {
            preset,
            allow,
            packages,
            recorded,
            max_bytes: None,
            environments: 10,
            mirror: None,
            trust: TrustStore::load(None)?,
        })
    }

    #[test]
    fn what_is_recorded_badly_is_left_out_and_what_is_set_badly_is_an_error() {
        let network = open("packages", "", None).expect("a network");
        assert_eq!(network.gateway.policy().to_string(), "packages");
        assert!(network.gateway.policy().narrow("index.example:443").is_ok());
        let network = open("packages", "", Some("npm=https://npm.example/")).expect("a network");
        assert!(
            network
                .gateway
                .policy()
                .narrow("index.example:443")
                .is_err()
        );
        for (preset, allow, packages) in [
            ("some", "", None),
            ("none", "a b", None),
            ("none", "", Some("pip=nowhere")),
            ("none", "", Some("https://me:secret@index.example/")),
            ("none", "", Some("pip=https://me:a,secret@index.example/")),
            ("none", "", Some("pip=https://me:secret,a@index.example/")),
        ] {
            let error = open(preset, allow, packages).expect_err("a setting");
            assert!(matches!(error, NetworkError::Policy(_)), "{error}");
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }

    /// A layout with one image, of which one layer has one file. Beside them in the folder, and in the image, is a record
    /// of registries.
    fn hostile_image(folder: &Path, record: &str) {
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("made");
        let put = |kind: &str, bytes: &[u8]| {
            let digest = Digest::of(bytes);
            fs::write(blobs.join(digest.hex()), bytes).expect("written");
            let media_type = format!("application/vnd.oci.image.{kind}");
            json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
        };
        let mut layer = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(record.len()).expect("small"));
        header.set_mode(0o644);
        layer
            .append_data(&mut header, recorded::FILE, record.as_bytes())
            .expect("a file");
        let layer = put("layer.v1.tar", &layer.into_inner().expect("a layer"));
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        });
        let config = put("config.v1+json", config.to_string().as_bytes());
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]}).to_string();
        let mut manifest = put("manifest.v1+json", manifest.as_bytes());
        manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "evil/image:1"});
        let index = json!({"schemaVersion": 2, "manifests": [manifest]}).to_string();
        for (name, content) in [
            ("index.json", index.as_str()),
            ("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#),
            (recorded::FILE, record),
        ] {
            fs::write(folder.join(name), content).expect("written");
        }
    }

    /// What `main` hands to [`Network::open`] is the file of that name in the store's own folder, which `./dev images`
    /// writes. One that comes with an image is a file of that image.
    #[tokio::test]
    async fn an_image_with_a_record_of_registries_widens_nothing() {
        let record =
            |host: &str| format!(r#"{{"version":1,"registries":["pip=https://{host}/"]}}"#);
        let (store, hostile) = (tempdir().expect("a folder"), tempdir().expect("a folder"));
        fs::write(store.path().join(recorded::FILE), record("index.example")).expect("written");
        hostile_image(hostile.path(), &record("evil.example"));
        let images = Images::open(Options::new(store.path().to_owned())).expect("a store");
        let imported = images.import(hostile.path(), None, &|_| ()).await;
        assert_eq!(imported.expect("an image").len(), 1);

        let recorded = recorded::registries(store.path()).expect("ours");
        assert_eq!(recorded, ["pip=https://index.example/"]);
        let network = open_with(&recorded, "packages", "", None).expect("a network");
        let policy = network.gateway.policy();
        assert!(policy.narrow("index.example:443").is_ok());
        assert!(policy.narrow("evil.example:443").is_err());
    }
}
