// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What `./dev images` makes of package trees: `tools/oci_image.py`, judged by skopeo, umoci and GNU tar, and
//! `tools/registries.py`.

#![allow(
    clippy::indexing_slicing,
    reason = "JSON gives null for what is absent; anything else that is missing fails the test"
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;
use waggle_images::recorded;
use waggle_protocol::handshake::{VERSION_MAX, VERSION_MIN};
use waggle_tests::{image_registry::have, settings};

/// Makes the base of all cases.
const BASE: &str = r#"
    mkdir -p etc/waggle usr/libexec/waggle usr/share/gone/deep home/sandbox var/folder/below
    echo sandbox:x:1000:1000::/home/sandbox:/bin/bash >etc/passwd; echo sandbox:x:1000: >etc/group
    echo base >etc/motd; echo one >etc/kept; echo /usr/bin:/bin >etc/waggle/path
    echo x >usr/share/gone/deep/file; echo x >usr/share/gone-file; ln -s gone-file usr/share/gone-link
    echo below >var/folder/below/file; echo plain >var/file; ln -s file var/link; echo target >var/was-file
    echo linked >usr/first; ln usr/first usr/second; echo pair >usr/left; ln usr/left usr/right
    echo mode >usr/mode; echo time >usr/time; chmod 0755 usr/mode
    chmod 0700 usr/share
"#;

/// Makes an image of base.
const OVER: &str = r#"
    echo changed >etc/motd; echo /opt/bin:/bin >etc/waggle/path
    rm -r usr/share/gone usr/share/gone-file usr/share/gone-link
    rm -r var/folder var/file var/link var/was-file
    echo file >var/folder; mkdir var/file; echo in >var/file/in; echo file >var/link; ln -s ../etc var/was-file
    ln usr/first usr/third; echo other >usr/left
    chmod 4711 usr/mode; touch -d @1000000000 usr/time
    mkdir -p "opt/$(printf '%0120d' 0)/$(printf '%0120d' 1)"
    echo long >"opt/$(printf '%0120d' 0)/$(printf '%0120d' 1)/name"; ln -s "$(printf '%0120d' 2)" opt/far
    : >"$(printf 'opt/\303\303 bytes')"; mkfifo opt/pipe
"#;

/// A folder of trees, guest programs and layouts.
struct Workshop {
    folder: TempDir,
}

impl Workshop {
    /// With the trees `base` and `over`.
    fn open() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let workshop = Self { folder };
        fs::create_dir(workshop.path("guest")).expect("made");
        workshop.guest("agent 1");
        workshop.tree("base", BASE);
        workshop.tree("over", &format!("{BASE}\n{OVER}"));
        workshop
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn guest(&self, agent: &str) {
        fs::write(self.path("guest/waggle-guest"), agent).expect("written");
        fs::write(self.path("guest/waggle-tool"), "a tool").expect("written");
    }

    /// Packs what a script makes, as mmdebstrap would.
    fn tree(&self, name: &str, script: &str) {
        let script = format!(
            "set -e; umask 022; mkdir '{name}'; cd '{name}'
            touch -d @1100000000 ../stamp
            {script}
            find . -newer ../stamp -exec touch -h -d @1200000000 {{}} +
            tar -c -f - --sort=name --numeric-owner --format=gnu . | zstd -q -o ../{name}.tar.zst"
        );
        self.shell(&script);
    }

    fn shell(&self, script: &str) -> String {
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(self.folder.path());
        printed(&command.output().expect("sh runs"))
    }

    fn tool(&self, layout: &str, names: &[&str]) -> Output {
        let mut command = Command::new("python3");
        command
            .arg(repository("tools/oci_image.py"))
            .arg(self.path(layout))
            .arg("--guest")
            .arg(self.path("guest"))
            .args(["--programs", "waggle-guest,waggle-tool"])
            .args(["--version", "1.2.3", "--handshake"])
            .arg(repository("protocol/src/handshake.rs"));
        for name in names {
            command.arg(format!(
                "{name}={}",
                self.path(&format!("{name}.tar.zst")).display()
            ));
        }
        fs::create_dir_all(self.path(layout)).expect("made");
        command.output().expect("python3 runs")
    }

    /// Makes images.
    fn make(&self, layout: &str, names: &[&str]) {
        printed(&self.tool(layout, names));
    }

    /// The manifest of an image, and its configuration.
    fn image(&self, layout: &str, name: &str) -> (Value, Value) {
        let index = json_of(&self.path(layout).join("index.json"));
        let reference = format!("localhost/waggle-{name}:latest");
        let entries = index["manifests"].as_array().expect("a list");
        let entry = entries
            .iter()
            .find(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] == *reference);
        let manifest = json_of(&self.blob(layout, &entry.expect("the image")["digest"]));
        let config = json_of(&self.blob(layout, &manifest["config"]["digest"]));
        (manifest, config)
    }

    fn blob(&self, layout: &str, digest: &Value) -> PathBuf {
        let digest = digest.as_str().expect("a digest");
        let hex = digest.strip_prefix("sha256:").expect("SHA-256");
        self.path(layout).join("blobs/sha256").join(hex)
    }

    /// The files of an image's layers.
    fn layers(&self, layout: &str, name: &str) -> Vec<PathBuf> {
        let (manifest, _) = self.image(layout, name);
        let layers = manifest["layers"].as_array().expect("a list");
        let blobs = layers
            .iter()
            .map(|layer| self.blob(layout, &layer["digest"]));
        blobs.collect()
    }

    /// Every blob of a layout, by name, with what tells whether it was written anew.
    fn blobs(&self, layout: &str) -> BTreeMap<String, u64> {
        let entries = fs::read_dir(self.path(layout).join("blobs/sha256")).expect("a folder");
        let entries = entries.map(|entry| entry.expect("an entry"));
        entries
            .map(|entry| {
                let inode = entry.metadata().expect("metadata").ino();
                (entry.file_name().into_string().expect("UTF-8"), inode)
            })
            .collect()
    }
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("read")).expect("JSON")
}

#[test]
fn a_layer_has_what_changed_and_whiteouts() {
    let workshop = Workshop::open();
    workshop.make("oci", &["base", "over"]);
    let layers = workshop.layers("oci", "over");
    assert_eq!(layers.len(), 3);
    let list = |layer: &Path| -> Vec<String> {
        let mut tar = Command::new("tar");
        tar.args(["-t", "-z", "--quoting-style=escape", "-f"]);
        let listed = printed(&tar.arg(layer).output().expect("tar runs"));
        listed.lines().map(str::to_owned).collect()
    };
    let mut changed = list(&layers[1]);
    changed.sort();
    let zeros = |last: char| format!("{:0>120}", last);
    let mut expected = vec![
        // Folders that lead to entries, though they did not change.
        "etc/".to_owned(),
        "etc/motd".to_owned(),
        "etc/waggle/".to_owned(),
        "etc/waggle/path".to_owned(),
        "opt/".to_owned(),
        format!("opt/{}/", zeros('0')),
        format!("opt/{}/{}/", zeros('0'), zeros('1')),
        format!("opt/{}/{}/name", zeros('0'), zeros('1')),
        "opt/far".to_owned(),
        "opt/pipe".to_owned(),
        r"opt/\303\303 bytes".to_owned(),
        "usr/".to_owned(),
        // All names of a file come together, whichever of them is new.
        "usr/first".to_owned(),
        "usr/left".to_owned(),
        "usr/mode".to_owned(),
        "usr/right".to_owned(),
        "usr/second".to_owned(),
        "usr/share/".to_owned(),
        // One whiteout for a folder and all that was below it.
        "usr/share/.wh.gone".to_owned(),
        "usr/share/.wh.gone-file".to_owned(),
        "usr/share/.wh.gone-link".to_owned(),
        "usr/third".to_owned(),
        "usr/time".to_owned(),
        "var/".to_owned(),
        "var/file/".to_owned(),
        "var/file/in".to_owned(),
        // A file in a folder's place needs no whiteout.
        "var/folder".to_owned(),
        "var/link".to_owned(),
        "var/was-file".to_owned(),
    ];
    expected.sort();
    assert_eq!(changed, expected);
    let programs = [
        "usr/",
        "usr/libexec/",
        "usr/libexec/waggle/",
        "usr/libexec/waggle/waggle-guest",
        "usr/libexec/waggle/waggle-tool",
    ];
    assert_eq!(list(&layers[2]), programs);

    // Base is the lowest layer of both, and the programs are the highest.
    let base = workshop.layers("oci", "base");
    assert_eq!(base, [layers[0].clone(), layers[2].clone()]);
}

#[test]
fn umoci_unpacks_the_tree() {
    if !have("umoci") {
        return;
    }
    let workshop = Workshop::open();
    workshop.make("oci", &["base", "over"]);
    // Without root, neither of the two sets owners.
    let script = r#"
        set -e
        [ "$(id -u)" = 0 ] || rootless=--rootless
        for name in base over; do
            umoci unpack $rootless --image "oci:localhost/waggle-$name:latest" "bundle-$name" >log 2>&1 || { cat log; exit 1; }
            mkdir "tree-$name"
            zstd -q -d -c "$name.tar.zst" | tar -x -p --numeric-owner -C "tree-$name" -f -
            cmp guest/waggle-tool "bundle-$name/rootfs/usr/libexec/waggle/waggle-tool"
            rm "bundle-$name"/rootfs/usr/libexec/waggle/waggle-*
            # The layer of the programs has the folders that lead to them.
            touch -d @1200000000 "bundle-$name"/rootfs/usr/libexec/waggle
            list() {
                find . -printf '%P %y %m %U %G %T@ %n %l\n' | sort
                find . -type f -exec sha256sum {} + | sort
            }
            (cd "tree-$name" && list) >expected
            (cd "bundle-$name/rootfs" && list) >found
            diff -a expected found
            wc -l <found
        done
    "#;
    assert_eq!(workshop.shell(script), "48\n51\n");
}

#[test]
fn skopeo_reads_the_image_and_what_it_says() {
    let workshop = Workshop::open();
    workshop.make("oci", &["base", "over"]);
    let (_, config) = workshop.image("oci", "over");
    assert_eq!(config["config"]["Env"], json!(["PATH=/opt/bin:/bin"]));
    assert_eq!(config["config"]["User"], "sandbox");
    assert_eq!(config["created"], "2008-01-10T21:20:00Z");
    let agent = "sha256sum <guest/waggle-guest | cut -d' ' -f1 | tr -d '\n'";
    let labels = json!({
        "dev.waggle.agent": workshop.shell(agent),
        "dev.waggle.protocol": format!("{VERSION_MIN}-{VERSION_MAX}"),
        "org.opencontainers.image.title": "waggle-over",
        "org.opencontainers.image.version": "1.2.3",
    });
    assert_eq!(config["config"]["Labels"], labels);
    if !have("skopeo") {
        return;
    }
    let inspected = workshop.shell(
        "skopeo inspect oci:oci:localhost/waggle-over:latest
        skopeo copy -q oci:oci:localhost/waggle-over:latest docker-archive:over.tar:localhost/waggle-over:latest >&2",
    );
    let inspected: Value = serde_json::from_str(&inspected).expect("JSON");
    assert_eq!(inspected["Labels"], labels);
    assert_eq!(inspected["Layers"].as_array().map(Vec::len), Some(3));
    // To that format, each layer is unpacked and checked against the configuration.
    assert!(workshop.path("over.tar").exists());
}

#[test]
fn the_same_trees_give_the_same_bytes_and_only_what_is_new_is_written() {
    let workshop = Workshop::open();
    workshop.make("oci", &["base", "over"]);
    workshop.make("again", &["base", "over"]);
    workshop.shell("diff -r oci again");

    let before = workshop.blobs("oci");
    let layers = workshop.layers("oci", "over");
    workshop.make("oci", &["base", "over"]);
    let inode = |layer: &PathBuf| fs::metadata(layer).expect("a layer").ino();
    let name = |layer: &PathBuf| {
        let name = layer.file_name().expect("a name").to_owned();
        name.into_string().expect("UTF-8")
    };
    for layer in &layers {
        assert_eq!(before[&name(layer)], inode(layer));
    }

    // A new agent is a new last layer, in place of the old one.
    workshop.guest("agent 2");
    workshop.make("oci", &["base", "over"]);
    let renewed = workshop.layers("oci", "over");
    assert_eq!(renewed[..2], layers[..2]);
    assert_eq!(inode(&renewed[0]), before[&name(&layers[0])]);
    assert_ne!(renewed[2], layers[2]);
    assert_eq!(workshop.blobs("oci").len(), before.len());
    assert!(!layers[2].exists());

    // Those that are not made now stay as they are, with all they have.
    workshop.guest("agent 3");
    workshop.make("oci", &["base"]);
    assert_eq!(workshop.layers("oci", "over"), renewed);
    assert!(renewed.iter().all(|layer| layer.exists()));
    assert_ne!(workshop.layers("oci", "base")[1], renewed[2]);

    // A blob that was lost or cut is made anew.
    fs::write(&renewed[1], "cut").expect("written");
    workshop.make("oci", &["base", "over"]);
    workshop.guest("agent 2");
    workshop.make("oci", &["base", "over"]);
    assert_eq!(workshop.layers("oci", "over"), renewed);
    assert!(fs::metadata(&renewed[1]).expect("a layer").len() > 3);
}

#[test]
fn a_tree_that_no_layer_can_hold_is_refused() {
    let workshop = Workshop::open();
    workshop.make("oci", &["base"]);
    let index = fs::read(workshop.path("oci/index.json")).expect("read");
    workshop.tree("bad", ": >.wh.name");
    let output = workshop.tool("oci", &["base", "bad"]);
    assert!(!output.status.success());
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(complaint.contains("'./.wh.name'"), "{complaint}");
    assert_eq!(
        fs::read(workshop.path("oci/index.json")).expect("read"),
        index
    );
}

fn registries(folder: &Path, records: &[&str]) -> Output {
    let mut command = Command::new("python3");
    command
        .arg(repository("tools/registries.py"))
        .arg(folder.join("registries.json"));
    for (number, record) in records.iter().enumerate() {
        let file = folder.join(format!("{number}.registries"));
        fs::write(&file, record).expect("written");
        command.arg(file);
    }
    command.output().expect("python3 runs")
}

#[test]
fn the_files_of_cargos_registry_are_where_its_index_says() {
    let folder = TempDir::new().expect("a temporary folder");
    let config = folder.path().join("config.json");
    let files = |dl: &str| {
        fs::write(
            &config,
            json!({"dl": dl, "api": "https://a.example"}).to_string(),
        )
        .expect("written");
        let mut command = Command::new("python3");
        command.arg(repository("tools/registries.py"));
        command.arg("--cargo-files").arg(&config);
        command.output().expect("python3 runs")
    };
    for dl in [
        "https://f.example/crates",
        "https://f.example/crates/{crate}/{version}/download",
    ] {
        assert_eq!(
            printed(&files(dl)),
            "cargo-files=https://f.example/crates/\n"
        );
    }
    let output = files("ftp://f.example/crates");
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("ftp://f.example"), "{text}");
}

/// What `./dev images` has asked on this machine. No source of the product names any of it.
#[test]
fn every_manager_of_the_recipes_has_said_where_it_fetches_from() {
    let images = settings::path(settings::IMAGE_CACHE_DIR);
    let recorded = recorded::registries(&images).expect("what is recorded");
    let mut managers: Vec<_> = recorded
        .iter()
        .filter_map(|entry| entry.split('=').next())
        .collect();
    managers.dedup();
    let expected = [
        "apt",
        "cargo",
        "cargo-files",
        "go",
        "npm",
        "pip",
        "pip-files",
    ];
    // Sorted as entries are: `-` goes before `=`.
    managers.sort_unstable();
    assert_eq!(managers, expected, "{recorded:?}");
    for entry in &recorded {
        let host = entry.split('/').nth(2).expect("a host");
        let host = host.split(':').next().expect("a host");
        let mut search = Command::new("grep");
        search.args(["-rlF", host]);
        for sources in ["host", "images/src", "protocol", "runtime", "guest-agent"] {
            search.arg(repository(sources));
        }
        let found = search.output().expect("grep runs");
        let found = String::from_utf8_lossy(&found.stdout).into_owned();
        assert_eq!(found, "", "{host}");
    }
}

#[test]
fn registries_are_those_of_all_images() {
    let folder = TempDir::new().expect("a temporary folder");
    let folder = folder.path();
    let apt = "apt=http://a.example/debian/\n";
    let npm = format!("npm=https://n.example/\n\n{apt}{apt}");
    printed(&registries(folder, &[apt, &npm]));
    let written = json_of(&folder.join("registries.json"));
    assert_eq!(
        written,
        json!({"version": 1, "registries": ["apt=http://a.example/debian/", "npm=https://n.example/"]})
    );
    printed(&registries(folder, &["npm=http://localhost:8081/"]));
    let written = json_of(&folder.join("registries.json"));
    assert_eq!(written["registries"], json!(["npm=http://localhost:8081/"]));
}

#[test]
fn what_is_no_registry_is_not_recorded() {
    let folder = TempDir::new().expect("a temporary folder");
    for bad in [
        "npm",
        "npm=ftp://x/",
        "npm=https://me:secret@x/",
        "=https://x/",
        "npm=https://x/ y",
        "N=http://x/",
    ] {
        let output = registries(folder.path(), &["apt=http://a.example/\n", bad]);
        assert!(!output.status.success(), "{bad}");
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(complaint.contains(bad), "{complaint}");
        assert!(!folder.path().join("registries.json").exists(), "{bad}");
    }
}
