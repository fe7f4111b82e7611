// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Environments made of images from a real registry, which tools that are not ours made or changed: what the
//! guest's kernel sees of their layers, what of their configuration programs get, and forms that images come in.

#![allow(
    clippy::indexing_slicing,
    reason = "JSON gives null for what is absent; anything else that is missing fails the test"
)]

mod workshop;

use std::{
    ffi::OsStr,
    fs,
    fs::File,
    os::unix::{ffi::OsStrExt as _, fs::FileExt as _},
};

use serde_json::{Value, json};
use tar::EntryType;
use tempfile::TempDir;
use waggle_images::{Images, images::Options};
use waggle_protocol::boot::{BOOT_DISK, IMAGE_DISK, SCRATCH_DISK};
use waggle_tests::{Scene, machines};
use workshop::{
    Layer, MTIME, TOOLS, add_layer, as_root, configure, content, create_of, folder, header, id_of,
    layer, layers, link, our_image, printed, put, settings_of,
    support::{
        have,
        image::{Layout, index},
        registry::{Registry, Variant},
        run,
    },
};

/// A registry with `odd/python:1`: our own image, and upon it two layers with what layers
/// may have, and another configuration.
fn odd_image() -> Registry {
    let registry = Registry::start(Variant::Plain);
    let layout = our_image(&registry);
    let programs = Programs {
        id: content(&layout, "usr/bin/id"),
        cat: content(&layout, "usr/bin/cat"),
    };
    add_layer(&layout, "python", lower());
    add_layer(&layout, "python", upper(&programs));
    let changes = [
        "--config.env=GREETING=hello from the image",
        "--config.env=PATH=/opt/bin:/home/sandbox/venv/bin:/usr/local/bin:/usr/bin:/bin",
        "--config.workingdir=/opt/work",
        "--config.user=1234:1234",
        "--config.entrypoint=/bin/false",
    ];
    configure(&layout, "python", &changes);
    registry.put(&layout, "python", "odd/python:1");
    registry
}

/// What the upper layer changes.
fn lower() -> Layer {
    let mut layer = layer();
    for path in ["opt/work/", "opt/bin/", "opt/hidden/", "opt/to-file/"] {
        folder(&mut layer, path);
    }
    let old = b"of the lower layer";
    for path in ["gone", "hidden/one", "to-file/below", "to-link"] {
        put(&mut layer, format!("opt/{path}"), 0o644, old);
    }
    link(&mut layer, EntryType::Symlink, "opt/to-folder", "/etc");
    link(
        &mut layer,
        EntryType::Symlink,
        "opt/from-link",
        "/etc/passwd",
    );
    let greet = b"#!/bin/sh\necho \"$GREETING\"\n";
    put(&mut layer, "opt/bin/greet", 0o755, greet);
    layer
}

fn upper(programs: &Programs) -> Layer {
    let mut layer = layer();
    put(&mut layer, "opt/.wh.gone", 0, b"");
    put(&mut layer, "opt/hidden/two", 0o644, b"of the upper layer");
    put(&mut layer, "opt/hidden/.wh..wh..opq", 0, b"");
    put(&mut layer, "opt/to-file", 0o644, b"a file now");
    folder(&mut layer, "opt/to-folder/");
    put(&mut layer, "opt/to-folder/mine", 0o644, b"not in /etc");
    put(&mut layer, "opt/from-link", 0o644, b"no link now");
    link(&mut layer, EntryType::Symlink, "opt/to-link", "to-file");
    let large = vec![b'x'; 3 * 1024 * 1024 + 17];
    put(&mut layer, "opt/large", 0o604, &large);
    link(&mut layer, EntryType::Link, "opt/also-large", "opt/large");
    let long = format!("opt/{}", "long-".repeat(50));
    put(&mut layer, long, 0o644, b"long");
    let mut fifo = header(EntryType::Fifo, 0, 0o600);
    let appended = layer.append_data(&mut fifo, "opt/pipe", &[][..]);
    appended.expect("appended");
    holes(&mut layer);
    attributes(&mut layer);
    put(&mut layer, "opt/more/twice", 0o644, b"first");
    put(&mut layer, "opt/more/twice", 0o644, b"last");
    let odd = OsStr::from_bytes(b"opt/more/odd-\xff\xfe");
    put(&mut layer, odd, 0o644, b"not UTF-8");
    rights(&mut layer, programs);
    layer
}

/// A file of 5 GiB that is nothing but holes and a word.
fn holes(layer: &mut Layer) {
    let dir = TempDir::new().expect("a folder");
    let path = dir.path().join("holes");
    let file = File::create(&path).expect("a file");
    file.set_len(5 << 30).expect("a hole");
    file.write_all_at(b"honey", 4 << 30).expect("written");
    drop(file);
    let mut file = File::open(&path).expect("there");
    layer.sparse(true);
    layer.append_file("opt/holes", &mut file).expect("appended");
}

/// Owners beyond 16 bits, parts of a second, and an attribute of the image beside one of its builder's.
fn attributes(layer: &mut Layer) {
    folder(layer, "opt/more/");
    let records: [(&str, &[u8]); 3] = [
        ("mtime", b"1000000000.123456789"),
        ("SCHILY.xattr.user.colour", b"yellow\0black"),
        ("SCHILY.xattr.security.selinux", b"of the builder"),
    ];
    layer.append_pax_extensions(records).expect("appended");
    let mut header = header(EntryType::Regular, 5, 0o644);
    header.set_uid(1_234_567);
    header.set_gid(7_654_321);
    let appended = layer.append_data(&mut header, "opt/more/owned", &b"owned"[..]);
    appended.expect("appended");
}

/// Programs of the image itself, so that they run there.
struct Programs {
    id: Vec<u8>,
    cat: Vec<u8>,
}

/// CAP_NET_BIND_SERVICE, permitted and effective, as linux/capability.h lays it out (`vfs_cap_data`, revision 2).
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// The major number that the guest's kernel gives disks; the test sees whether it still does.
const DISK_MAJOR: u32 = 254;

/// What gives rights: a program that is set-uid root, one with a capability, and a disk that all may read and write.
fn rights(layer: &mut Layer, programs: &Programs) {
    put(layer, "opt/more/id", 0o4755, &programs.id);
    let records = [("SCHILY.xattr.security.capability", &CAPABILITY[..])];
    layer.append_pax_extensions(records).expect("appended");
    put(layer, "opt/more/cat", 0o755, &programs.cat);
    for minor in [0, 16, 32] {
        let mut disk = header(EntryType::Block, 0, 0o666);
        disk.set_device_major(DISK_MAJOR).expect("a number");
        disk.set_device_minor(minor).expect("a number");
        let path = format!("opt/more/disk-{minor}");
        let appended = layer.append_data(&mut disk, path, &[][..]);
        appended.expect("appended");
    }
}

/// What is in `/opt`, as the guest's kernel has it.
const LOOK: &str = r#"
import json, os, stat, sys
def text(path):
    with open(path, "rb") as file:
        return file.read().decode()
def about(path):
    status = os.lstat(path)
    return [stat.filemode(status.st_mode), status.st_size, status.st_nlink, int(status.st_mtime)]
with open("/opt/holes", "rb") as file:
    file.seek((4 << 30) - 3)
    around = file.read(11)
with open("/opt/large", "rb") as file:
    large = file.read()
print(json.dumps({
    "names": sorted(name for name in os.listdir("/opt") if not name.startswith("long-")),
    "hidden": os.listdir("/opt/hidden"),
    "to_file": text("/opt/to-file"),
    "to_folder": os.listdir("/opt/to-folder"),
    "from_link": text("/opt/from-link"),
    "to_link": [os.readlink("/opt/to-link"), text("/opt/to-link")],
    "more": [name.hex() for name in os.listdir(b"/opt/more") if name.startswith(b"odd-")],
    "twice": text("/opt/more/twice"),
    "etc": os.path.exists("/etc/mine"),
    "long": [text("/opt/" + "long-" * 50)],
    "large": [len(large), large.count(b"x")] + about("/opt/large"),
    "same": os.path.samefile("/opt/large", "/opt/also-large"),
    "pipe": about("/opt/pipe")[0],
    "holes": [os.path.getsize("/opt/holes"), around.decode()],
    "greeting": os.environ["GREETING"],
    "greet": os.popen("greet").read(),
    "cwd": os.getcwd(),
    "user": os.getuid(),
}))
"#;

/// What of attributes and rights in `/opt/more` counts in the guest, for whoever runs it.
const RIGHTS: &str = r#"
import errno, json, os, stat, subprocess
def at(name):
    return "/opt/more/" + name
def run(*words):
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout
def opened(path):
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        return errno.errorcode[error.errno]
    return "opened"
owned = os.stat(at("owned"))
status = run(at("cat"), "/proc/self/status").splitlines()
disks = {}
for disk in filter(lambda name: name.startswith("vd"), sorted(os.listdir("/sys/block"))):
    with open(f"/sys/block/{disk}/serial") as serial, open(f"/sys/block/{disk}/dev") as number:
        minor = number.read().split(":")[1].strip()
        node = at("disk-" + minor)
        own, images = os.stat("/dev/" + disk), os.stat(node)
        disks[serial.read().strip()] = [own.st_rdev == images.st_rdev, stat.filemode(images.st_mode),
                                        opened(node), opened("/dev/" + disk)]
print(json.dumps({
    "owned": [owned.st_uid, owned.st_gid, owned.st_mtime_ns, stat.filemode(owned.st_mode)],
    "attributes": sorted(os.listxattr(at("owned"))),
    "colour": os.getxattr(at("owned"), "user.colour").decode(),
    "set_uid": [run(at("id"), "-u").strip(), run(at("id"), "-ru").strip()],
    "capability": os.getxattr(at("cat"), "security.capability").hex(),
    "capabilities": [line.split()[1] for line in status if line.startswith("CapEff")][0],
    "disks": disks,
}))
"#;

#[tokio::test]
async fn what_layers_hold_is_what_the_guest_sees() {
    if !have(&TOOLS) {
        return;
    }
    let _permit = machines(1).await;
    let registry = odd_image();
    let store = TempDir::new().expect("a folder");
    let scene = Scene::with(settings_of(&registry, &store)).await;
    let image = format!("{}/odd/python:1", registry.address);
    let created = create_of(&scene, "python", &image).await;
    assert_eq!(created["image"], image);
    let digest = created["image_digest"].as_str().expect("a digest");
    assert!(digest.starts_with("sha256:"), "{created}");
    assert_eq!(created["image_user"], "1234");
    let id = id_of(&created);
    let seen: Value = serde_json::from_str(&scene.output(&id, LOOK).await).expect("JSON");
    assert_eq!(seen, expected());
    let by_sandbox: Value = serde_json::from_str(&scene.output(&id, RIGHTS).await).expect("JSON");
    assert_eq!(by_sandbox, expected_rights("1000", "EACCES"));
    let by_root = as_root(&scene, &id, RIGHTS).await;
    assert_eq!(by_root["disks"], expected_rights("0", "opened")["disks"]);
    // The second one needs no registry any more.
    drop(registry);
    scene.destroy(&id).await;
    let again = scene.create("python").await;
    assert_eq!(scene.output(&again, "print(6 * 7)").await, "42\n");
    scene.close().await;
}

fn expected() -> Value {
    let large = 3 * 1024 * 1024 + 17;
    json!({
        "names": [
            "also-large", "bin", "from-link", "hidden", "holes", "large", "more", "pipe", "to-file", "to-folder",
            "to-link", "work",
        ],
        "hidden": ["two"],
        "to_file": "a file now",
        "to_folder": ["mine"],
        "from_link": "no link now",
        "to_link": ["to-file", "a file now"],
        "more": ["6f64642dfffe"],
        "twice": "last",
        "etc": false,
        "long": ["long"],
        "large": [large, large, "-rw----r--", large, 2, MTIME],
        "same": true,
        "pipe": "prw-------",
        "holes": [5_u64 << 30, "\0\0\0honey\0\0\0"],
        "greeting": "hello from the image",
        "greet": "hello from the image\n",
        "cwd": "/opt/work",
        "user": 1000,
    })
}

/// What a user sees who may `open` disks in `/dev` so. Nobody may by what the image has, however it is marked.
fn expected_rights(user: &str, open: &str) -> Value {
    let disk = json!([true, "brw-rw-rw-", "EACCES", open]);
    json!({
        "owned": [1_234_567, 7_654_321, MTIME * 1_000_000_000 + 123_456_789, "-rw-r--r--"],
        "attributes": ["user.colour"],
        "colour": "yellow\0black",
        "set_uid": ["0", user],
        "capability": "0100000200040000000000000000000000000000",
        "capabilities": "0000000000000400",
        "disks": {(BOOT_DISK): disk, (IMAGE_DISK): disk, (SCRATCH_DISK): disk},
    })
}

/// How many layers our own python image has, and how many an image is made to have.
const OUR_LAYERS: usize = 3;
const MANY_LAYERS: usize = 60;

/// An index for several platforms leads to an image of 60 layers, each of which adds a file and replaces another one.
#[tokio::test]
async fn an_image_of_sixty_layers_and_several_platforms_is_one_disk() {
    if !have(&TOOLS) || !have(&["buildah"]) {
        return;
    }
    let _permit = machines(1).await;
    let registry = Registry::start(Variant::Plain);
    let (dir, path) = (registry.dir.path(), our_image(&registry));
    for number in OUR_LAYERS..MANY_LAYERS {
        let mut layer = layer();
        put(&mut layer, format!("many/{number}"), 0o644, b"");
        let newest = number.to_string();
        put(&mut layer, "many/newest", 0o644, newest.as_bytes());
        add_layer(&path, "python", layer);
    }
    registry.put(&path, "python", "many/ours:1");
    let arm = Layout::new(dir, "arm");
    arm.image("arm", "arm64", &[("/arch", b"arm64")]);
    registry.put(&arm.path, "arm", "many/arm:1");
    index(&registry, "odd/python:1", &["many/arm:1", "many/ours:1"]);
    let store = TempDir::new().expect("a folder");
    let scene = Scene::with(settings_of(&registry, &store)).await;
    let id = scene.create("python").await;
    let look = "import os\nprint(len(os.listdir('/many')), open('/many/newest').read())";
    let seen = scene.output(&id, look).await;
    let added = MANY_LAYERS - OUR_LAYERS;
    assert_eq!(seen, format!("{} {}\n", added + 1, MANY_LAYERS - 1));
    let images = Images::open(Options::new(store.path().to_owned())).expect("a store");
    let inspection = images.inspect(&registry.reference("odd/python:1"));
    let inspection = inspection.expect("it is there");
    assert_eq!(inspection.layers.len(), MANY_LAYERS);
    assert_ne!(inspection.named, inspection.summary.manifest, "an index");
    scene.close().await;
}

/// Layers in zstd, which skopeo compressed, and the plain tar of a root file system, which is the lowest of our layers.
#[tokio::test]
async fn zstd_layers_and_a_plain_root_file_system_boot() {
    if !have(&TOOLS) {
        return;
    }
    let _permit = machines(1).await;
    let registry = Registry::start(Variant::Plain);
    let (dir, layout) = (registry.dir.path(), our_image(&registry));
    let zstd = dir.join("zstd");
    let copy = [
        "copy",
        "--insecure-policy",
        "--quiet",
        "--dest-compress-format=zstd",
        &format!("oci:{}:python", layout.display()),
        &format!("oci:{}:python", zstd.display()),
    ];
    run(dir, "skopeo", &copy);
    registry.put(&zstd, "python", "odd/python:1");
    let root_fs = dir.join("rootfs.tar");
    let (_, lowest) = layers(&layout).swap_remove(0);
    let unpacked = run(dir, "gzip", &["-dc", &lowest.display().to_string()]);
    fs::write(&root_fs, unpacked.stdout).expect("a file");

    let store = TempDir::new().expect("a folder");
    let settings = settings_of(&registry, &store).with("WAGGLE_IMAGE_SHELL", "localhost/rootfs");
    let import = [
        "image",
        "import",
        &root_fs.display().to_string(),
        "--name",
        "localhost/rootfs",
    ];
    printed(settings.command(&import, dir)).await;
    let scene = Scene::with(settings).await;
    let python = scene.create("python").await;
    assert_eq!(scene.output(&python, "print(6 * 7)").await, "42\n");
    scene.destroy(&python).await;
    let shell = scene.create("shell").await;
    assert_eq!(scene.output(&shell, "echo $((6 * 7))").await, "42\n");
    scene.close().await;
    let images = Images::open(Options::new(store.path().to_owned())).expect("a store");
    let inspection = images.inspect(&registry.reference("odd/python:1"));
    let layers = inspection.expect("it is there").layers;
    let types: Vec<_> = layers
        .iter()
        .map(|layer| layer.media_type.as_str())
        .collect();
    assert_eq!(
        types,
        ["application/vnd.oci.image.layer.v1.tar+zstd"; OUR_LAYERS]
    );
}
