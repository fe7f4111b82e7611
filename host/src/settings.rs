// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What the operator chose, by flag or by variable, validated at start.

mod images;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use waggle_images::{AllowList, Reference};
use waggle_runtime::AcceleratorChoice;

use crate::{
    environment::Runtime,
    mcp::http::{Access, HostName, Token, TokenError},
    resolve::{Override, Overrides, Purpose},
};
pub use images::{ImageSettings, Mirrors};

/// The flags shared by all commands that run environments. Each has a variable; a flag wins.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// Most environments that may exist at once
    #[arg(long, env = "WAGGLE_MAX_ENVIRONMENTS", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub max_environments: u16,

    /// Virtual CPUs of an environment
    #[arg(long, env = "WAGGLE_DEFAULT_CPUS", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub default_cpus: u8,

    /// Memory of an environment, in MiB
    #[arg(long, env = "WAGGLE_DEFAULT_MEMORY_MB", default_value_t = 512, value_parser = clap::value_parser!(u32).range(128..=262_144))]
    pub default_memory_mb: u32,

    /// Size of an environment's scratch disk, in MiB; it occupies only what is written to it
    #[arg(long, env = "WAGGLE_DEFAULT_DISK_MB", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(64..=1_048_576))]
    pub default_disk_mb: u32,

    /// Minutes an environment may be idle before it is destroyed, where the caller does not say
    #[arg(long, env = "WAGGLE_DEFAULT_TIMEOUT_MIN", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=60))]
    pub default_timeout_min: u32,

    /// How long a machine may take to boot (like 30s, 2m)
    #[arg(long, env = "WAGGLE_BOOT_TIMEOUT", default_value = "2m", value_parser = duration)]
    pub boot_timeout: Duration,

    /// How long `execute` may run where the caller does not say
    #[arg(long, env = "WAGGLE_DEFAULT_EXEC_TIMEOUT", default_value = "30s", value_parser = duration)]
    pub default_exec_timeout: Duration,

    /// How long `execute` may run at most
    #[arg(long, env = "WAGGLE_MAX_EXEC_TIMEOUT", default_value = "5m", value_parser = duration)]
    pub max_exec_timeout: Duration,

    /// How long `install_packages` may take, all its steps together
    #[arg(long, env = "WAGGLE_INSTALL_TIMEOUT", default_value = "5m", value_parser = duration)]
    pub install_timeout: Duration,

    /// File of PEM certificates of authorities that this host and its guests trust [default: the
    /// system's store]
    #[arg(long, env = "WAGGLE_CA_BUNDLE")]
    pub ca_bundle: Option<PathBuf>,

    /// Most output of one `execute`, in MiB; a program that prints more is killed
    #[arg(long, env = "WAGGLE_MAX_OUTPUT_MB", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub max_output_mb: u32,

    /// How often idle environments are looked for
    #[arg(long, env = "WAGGLE_REAPER_INTERVAL", default_value = "1m", value_parser = duration)]
    pub reaper_interval: Duration,

    /// Where machines, the kernel and the boot disk live [default: `waggle` in the user's cache]
    #[arg(long, env = "WAGGLE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,

    /// Searched first for libkrunfw and vhost-device-vsock, before `lib` in the data folder and the
    /// system's folders
    #[arg(long, env = "WAGGLE_LIB_DIR")]
    pub lib_dir: Option<PathBuf>,

    #[allow(missing_docs)] // A comment here would be the command's.
    #[command(flatten)]
    pub images: ImageSettings,

    /// How long fetching an image and making its root may take (like 90s, 10m)
    #[arg(long, env = "WAGGLE_IMAGE_PULL_TIMEOUT", default_value = "10m", value_parser = duration)]
    pub image_pull_timeout: Duration,

    /// Images that callers may name in `create_environment`, separated by commas (like python,
    /// python:3.*, ghcr.io/acme/*); those of the runtimes they may always name
    #[arg(long, env = "WAGGLE_IMAGE_ALLOW", default_value = "", value_parser = AllowList::parse)]
    pub image_allow: AllowList,

    /// Whether the host keeps what pip, npm and apt fetch, for all environments
    #[arg(long, env = "WAGGLE_PACKAGE_MIRROR", default_value = "on", value_parser = switch, action = clap::ArgAction::Set)]
    pub package_mirror: bool,

    /// Where it is kept; may be shared by servers [default: `packages` in the data folder]
    #[arg(long, env = "WAGGLE_PACKAGE_CACHE_DIR")]
    pub package_cache_dir: Option<PathBuf>,

    /// Most of it, in MiB; what was not used for the longest goes first
    #[arg(long, env = "WAGGLE_PACKAGE_CACHE_MB", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(64..=1_048_576))]
    pub package_cache_mb: u32,

    /// What environments may reach: `packages` (the package registries), `none`, or `all` that is public
    #[arg(long, env = "WAGGLE_NETWORK", default_value = "packages")]
    pub network: String,

    /// What they may reach as well, separated by commas (like example.com, example.com:443,
    /// *.example.com, 192.0.2.0/24, [2001:db8::1]:80)
    #[arg(long, env = "WAGGLE_NETWORK_ALLOW", default_value = "")]
    pub network_allow: String,

    /// What `packages` stands for, separated by commas: MANAGER=URL or entries as above [default: what
    /// the package managers in the images use]
    #[arg(long, env = "WAGGLE_NETWORK_PACKAGES")]
    pub network_packages: Option<String>,

    /// Most bytes that one environment may move, both ways together, in MiB; 0: no limit
    #[arg(long, env = "WAGGLE_NETWORK_MAX_MB", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    pub network_max_mb: u32,

    /// Image of the runtime python; one that is not on this host is fetched when it is first needed
    #[arg(long, env = "WAGGLE_IMAGE_PYTHON", default_value = "localhost/waggle-python", value_parser = str::parse::<Reference>)]
    pub image_python: Reference,

    /// Image of the runtime node; one that is not on this host is fetched when it is first needed
    #[arg(long, env = "WAGGLE_IMAGE_NODE", default_value = "localhost/waggle-node", value_parser = str::parse::<Reference>)]
    pub image_node: Reference,

    /// Image of the runtime shell; one that is not on this host is fetched when it is first needed
    #[arg(long, env = "WAGGLE_IMAGE_SHELL", default_value = "localhost/waggle-shell", value_parser = str::parse::<Reference>)]
    pub image_shell: Reference,

    /// What runs the guests' instructions; `auto` uses KVM if it boots the guest kernel
    #[arg(long, env = "WAGGLE_ACCELERATOR", default_value = "auto", value_parser = accelerator)]
    pub accelerator: AcceleratorChoice,

    /// Run the guest agent that this binary carries, not the one in the image
    #[arg(long, env = "WAGGLE_AGENT_INJECT", value_parser = clap::builder::FalseyValueParser::new(), action = clap::ArgAction::SetTrue)]
    pub agent_inject: bool,

    /// Verbosity of the guests' consoles, 0 to 5
    #[arg(long, env = "WAGGLE_LOG_LEVEL", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=5))]
    pub log_level: u8,

    /// Interpreter for Python: an absolute path in the guest
    #[arg(long, env = "WAGGLE_RUNTIME_PYTHON_EXEC_COMMAND")]
    pub runtime_python_exec_command: Option<String>,

    /// Installer for Python packages: an absolute path in the guest, and arguments
    #[arg(long, env = "WAGGLE_RUNTIME_PYTHON_INSTALL_COMMAND")]
    pub runtime_python_install_command: Option<String>,

    /// Interpreter for JavaScript
    #[arg(long, env = "WAGGLE_RUNTIME_NODE_EXEC_COMMAND")]
    pub runtime_node_exec_command: Option<String>,

    /// Installer for Node packages
    #[arg(long, env = "WAGGLE_RUNTIME_NODE_INSTALL_COMMAND")]
    pub runtime_node_install_command: Option<String>,

    /// Interpreter for shell programs
    #[arg(long, env = "WAGGLE_RUNTIME_SHELL_EXEC_COMMAND")]
    pub runtime_shell_exec_command: Option<String>,

    /// Installer for system packages
    #[arg(long, env = "WAGGLE_RUNTIME_SHELL_INSTALL_COMMAND")]
    pub runtime_shell_install_command: Option<String>,
}

/// Settings that contradict one another, or that need a home folder where there is none.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The user has no cache folder to default to.
    #[error(
        "no home folder is known; set WAGGLE_DATA_DIR to a folder for machines, and WAGGLE_IMAGE_CACHE_DIR to that of the images"
    )]
    NoHome,
    /// The default would be refused.
    #[error(
        "WAGGLE_DEFAULT_EXEC_TIMEOUT ({}) is above WAGGLE_MAX_EXEC_TIMEOUT ({}); lower the one or raise the other",
        humantime::format_duration(*default), humantime::format_duration(*max)
    )]
    ExecTimeouts {
        /// The default.
        default: Duration,
        /// The maximum.
        max: Duration,
    },
    /// The port would be open to everyone who reaches the machine.
    #[error(
        "{address} is not a loopback address; set WAGGLE_AUTH_TOKEN_FILE to a file with a token that clients must send"
    )]
    Unprotected {
        /// Where the server would listen.
        address: SocketAddr,
    },
    /// The token file will not do.
    #[error("WAGGLE_AUTH_TOKEN_FILE is of no use")]
    Token(#[from] TokenError),
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("must be longer than nothing".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; write it like 30s, 5m or 168h")),
    }
}

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        other => Err(format!("{other:?} is neither on nor off")),
    }
}

fn accelerator(text: &str) -> Result<AcceleratorChoice, String> {
    match text {
        "auto" => Ok(AcceleratorChoice::Auto),
        "kvm" => Ok(AcceleratorChoice::Kvm),
        "tcg" => Ok(AcceleratorChoice::Tcg),
        other => Err(format!("{other:?} is none of auto, kvm, tcg")),
    }
}

impl Settings {
    /// Checks what one flag alone cannot.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] naming what to change.
    pub fn validate(&self) -> Result<(), SettingsError> {
        let (default, max) = (self.default_exec_timeout, self.max_exec_timeout);
        if default > max {
            return Err(SettingsError::ExecTimeouts { default, max });
        }
        self.data_dir().map(drop)
    }

    /// Most bytes of output of one program in the foreground.
    #[must_use]
    pub fn max_output_bytes(&self) -> u64 {
        u64::from(self.max_output_mb) * 1024 * 1024
    }

    /// Where machines, the kernel and the boot disk live.
    ///
    /// # Errors
    ///
    /// [`SettingsError::NoHome`].
    pub fn data_dir(&self) -> Result<PathBuf, SettingsError> {
        self.data_dir.clone().map_or_else(default_dir, Ok)
    }

    /// Where packages are kept.
    ///
    /// # Errors
    ///
    /// [`SettingsError::NoHome`].
    pub fn package_cache_dir(&self) -> Result<PathBuf, SettingsError> {
        match &self.package_cache_dir {
            Some(folder) => Ok(folder.clone()),
            None => Ok(self.data_dir()?.join("packages")),
        }
    }

    /// Most bytes of packages that are kept.
    #[must_use]
    pub fn package_cache_bytes(&self) -> u64 {
        u64::from(self.package_cache_mb) * 1024 * 1024
    }

    /// Most bytes that one environment may move.
    #[must_use]
    pub fn network_max_bytes(&self) -> Option<u64> {
        (self.network_max_mb > 0).then(|| u64::from(self.network_max_mb) * 1024 * 1024)
    }

    /// `runtime`'s image.
    #[must_use]
    pub fn image(&self, runtime: Runtime) -> &Reference {
        match runtime {
            Runtime::Python => &self.image_python,
            Runtime::Node => &self.image_node,
            Runtime::Shell => &self.image_shell,
        }
    }

    /// The operator's commands. One that is not acceptable is ignored with a warning, so that a typo
    /// does not take the whole server down.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        let mut overrides = Overrides::default();
        for (runtime, purpose, text) in [
            (
                Runtime::Python,
                Purpose::Exec,
                &self.runtime_python_exec_command,
            ),
            (
                Runtime::Python,
                Purpose::Install,
                &self.runtime_python_install_command,
            ),
            (
                Runtime::Node,
                Purpose::Exec,
                &self.runtime_node_exec_command,
            ),
            (
                Runtime::Node,
                Purpose::Install,
                &self.runtime_node_install_command,
            ),
            (
                Runtime::Shell,
                Purpose::Exec,
                &self.runtime_shell_exec_command,
            ),
            (
                Runtime::Shell,
                Purpose::Install,
                &self.runtime_shell_install_command,
            ),
        ] {
            let Some(text) = text else { continue };
            match Override::parse(text, purpose) {
                Ok(command) => overrides.set(runtime, purpose, command),
                Err(error) => {
                    tracing::warn!(%runtime, ?purpose, %error, "ignored a command override");
                }
            }
        }
        overrides
    }
}

fn default_dir() -> Result<PathBuf, SettingsError> {
    use etcetera::BaseStrategy as _;
    let strategy = etcetera::choose_base_strategy().map_err(|_| SettingsError::NoHome)?;
    Ok(strategy.cache_dir().join("waggle"))
}

/// Where `waggle serve` listens and whom it lets in, beside the shared settings.
#[derive(Debug, Clone, clap::Args)]
pub struct HttpSettings {
    /// Address and port to listen on; beyond loopback only with a token
    #[arg(long, env = "WAGGLE_LISTEN_ADDR", default_value = "127.0.0.1:8080", value_parser = address)]
    pub listen_addr: SocketAddr,

    /// File whose first line is the bearer token that clients must send; only its owner may read it
    #[arg(long, env = "WAGGLE_AUTH_TOKEN_FILE")]
    pub auth_token_file: Option<PathBuf>,

    /// Further names of this server in Host and Origin, separated by commas (like
    /// waggle.example.com,10.0.0.7:8080)
    #[arg(long, env = "WAGGLE_ALLOWED_HOSTS", value_delimiter = ',', value_parser = HostName::parse)]
    pub allowed_hosts: Vec<HostName>,
}

impl HttpSettings {
    /// Who may use the port.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] if anybody could, or if the token file will not do.
    pub fn access(&self) -> Result<Access, SettingsError> {
        // Whoever uses the port owns the environments.
        if self.auth_token_file.is_none() && !self.listen_addr.ip().is_loopback() {
            return Err(SettingsError::Unprotected {
                address: self.listen_addr,
            });
        }
        let token = self.auth_token_file.as_deref().map(Token::read);
        Ok(Access {
            token: token.transpose()?,
            hosts: self.allowed_hosts.clone(),
        })
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not like 127.0.0.1:8080 or [::1]:8080"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        http: HttpSettings,
    }

    fn parse(arguments: &[&str]) -> Result<Line, String> {
        Line::try_parse_from([&["waggle"], arguments].concat()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_those_of_the_original() {
        let line = parse(&[]).expect("no flag is required");
        let settings = line.settings;
        assert_eq!(line.http.listen_addr.to_string(), "127.0.0.1:8080");
        assert_eq!(settings.max_environments, 10);
        assert_eq!(
            (settings.default_cpus, settings.default_memory_mb),
            (1, 512)
        );
        assert_eq!(settings.default_timeout_min, 30);
        assert_eq!(settings.boot_timeout, Duration::from_secs(120));
        assert_eq!(settings.default_exec_timeout, Duration::from_secs(30));
        assert_eq!(settings.max_exec_timeout, Duration::from_secs(300));
        assert_eq!(settings.install_timeout, Duration::from_secs(300));
        assert_eq!(settings.reaper_interval, Duration::from_secs(60));
        assert!(settings.package_mirror);
        assert_eq!(settings.package_cache_bytes(), 4 << 30);
        let image = settings.image(Runtime::Node).to_string();
        assert_eq!(image, "localhost/waggle-node:latest");
        assert!(settings.image_allow.is_empty());
    }

    #[test]
    fn values_out_of_range_are_refused_with_the_value() {
        for arguments in [
            ["--max-environments", "0"],
            ["--default-timeout-min", "61"],
            ["--boot-timeout", "soon"],
            ["--boot-timeout", "0s"],
            ["--accelerator", "hvf"],
            ["--package-mirror", "maybe"],
            ["--package-cache-mb", "1"],
            ["--listen-addr", "localhost"],
            ["--allowed-hosts", "http://x"],
            ["--image-python", "Not/An/Image"],
            ["--image-allow", "*/python"],
            ["--image-max-entries", "0"],
        ] {
            let Err(error) = parse(&arguments) else {
                panic!("accepted {arguments:?}")
            };
            assert!(error.contains(arguments[1]), "{error}");
        }
    }

    #[test]
    fn contradictions_are_named() {
        let line = parse(&["--default-exec-timeout", "10m"]).expect("each is fine by itself");
        let error = line
            .settings
            .validate()
            .expect_err("above the maximum")
            .to_string();
        assert!(error.contains("10m") && error.contains("5m"), "{error}");
    }

    #[test]
    fn packages_are_kept_in_the_data_folder_or_where_the_operator_says() {
        let folder = |arguments: &[&str]| {
            let settings = parse(arguments).expect("flags").settings;
            settings.package_cache_dir().expect("a folder")
        };
        let kept = folder(&["--data-dir", "/d"]);
        assert_eq!(kept, PathBuf::from("/d/packages"));
        let kept = folder(&["--data-dir", "/d", "--package-cache-dir", "/p"]);
        assert_eq!(kept, PathBuf::from("/p"));
        let off = parse(&["--package-mirror", "off"]).expect("a flag");
        assert!(!off.settings.package_mirror);
    }

    #[test]
    fn only_a_token_opens_the_port_to_others() {
        let access = |arguments: &[&str]| parse(arguments).expect("flags").http.access();
        assert!(access(&[]).expect("loopback").token.is_none());
        let error = access(&["--listen-addr", "0.0.0.0:80"]).expect_err("no token");
        let text = error.to_string();
        assert!(
            text.contains("0.0.0.0:80") && text.contains("WAGGLE_AUTH_TOKEN_FILE"),
            "{text}"
        );

        let file = tempfile::NamedTempFile::new().expect("a file, of mode 0600");
        let path = file.path().to_str().expect("UTF-8");
        let open = ["--listen-addr", "0.0.0.0:80", "--auth-token-file", path];
        assert!(access(&open).is_err(), "an empty file is no token");
        std::fs::write(path, "x".repeat(32)).expect("written");
        assert!(access(&open).expect("a token").token.is_some());
    }

    #[test]
    fn names_are_separated_by_commas() {
        let line = parse(&["--allowed-hosts", "a.example,b.example:1"]).expect("two names");
        assert_eq!(line.http.allowed_hosts.len(), 2);
    }
}
