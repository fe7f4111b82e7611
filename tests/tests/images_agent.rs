// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Agents that images carry: which one runs, and what happens to images that have none or one that this server does not
//! understand.

#![allow(
    clippy::indexing_slicing,
    reason = "JSON gives null for what is absent; anything else that is missing fails the test"
)]

mod workshop;

use serde_json::json;
use tempfile::TempDir;
use waggle_protocol::boot::AGENT_PATH;
use waggle_tests::{Scene, machines};
use workshop::{
    TOOLS, add_layer, as_root, configure, content, create_of, id_of, layer, our_image, put,
    settings_of,
    support::{
        have,
        image::Layout,
        registry::{Registry, Variant},
    },
};

/// What an agent is told from another one by. ELF files may end with anything.
const MARK: &str = "of the image";

/// Which agent runs: it is the parent of what `execute` starts.
const AGENT: &str = r#"
import json, os, subprocess
AGENT = "/usr/libexec/waggle/waggle-guest"
def content(path):
    with open(path, "rb") as file:
        return file.read()
def is_boot_disk(disk):
    serial = f"/sys/block/{disk}/serial"
    return os.path.exists(serial) and content(serial).strip() == b"waggle-boot"
(boot_disk,) = filter(is_boot_disk, os.listdir("/sys/block"))
os.mkdir("/root/boot")
subprocess.run(["mount", "-t", "erofs", "-o", "ro", "/dev/" + boot_disk, "/root/boot"], check=True)
running = f"/proc/{os.getppid()}/exe"
print(json.dumps({
    "is_the_images": os.path.exists(AGENT) and os.path.samefile(running, AGENT),
    "is_marked": content(running).endswith(b"of the image"),
    "is_the_boot_disks": content(running) == content("/root/boot" + AGENT),
}))
"#;

/// An agent that is baked into an image is what runs, and else the boot disk's.
#[tokio::test]
async fn an_images_own_agent_runs() {
    if !have(&TOOLS) {
        return;
    }
    let _permit = machines(1).await;
    let registry = Registry::start(Variant::Plain);
    let layout = our_image(&registry);
    let path = AGENT_PATH.trim_start_matches('/');
    let mut agent = content(&layout, path);
    agent.extend(MARK.as_bytes());
    let mut with_agent = layer();
    put(&mut with_agent, path, 0o755, &agent);
    add_layer(&layout, "python", with_agent);
    registry.put(&layout, "python", "agent/own:1");
    let mut without_agent = layer();
    let whiteout = path.replace("waggle-guest", ".wh.waggle-guest");
    put(&mut without_agent, whiteout, 0, b"");
    add_layer(&layout, "python", without_agent);
    registry.put(&layout, "python", "agent/none:1");

    let store = TempDir::new().expect("a folder");
    let scene = Scene::with(settings_of(&registry, &store)).await;
    for (image, is_the_images) in [("agent/own:1", true), ("agent/none:1", false)] {
        let image = format!("{}/{image}", registry.address);
        let id = id_of(&create_of(&scene, "python", &image).await);
        let expected = json!({
            "is_the_images": is_the_images,
            "is_marked": is_the_images,
            "is_the_boot_disks": !is_the_images,
        });
        assert_eq!(as_root(&scene, &id, AGENT).await, expected, "{image}");
        scene.destroy(&id).await;
    }
    scene.close().await;
}

/// An image of one file: the agent is the one that the server carries, and there is nothing to run programs with.
#[tokio::test]
async fn an_image_without_an_agent_or_a_shell_still_has_files() {
    if !have(&TOOLS) {
        return;
    }
    let _permit = machines(1).await;
    let registry = Registry::start(Variant::Plain);
    let layout = Layout::new(registry.dir.path(), "bare");
    layout.image("bare", "amd64", &[("/etc/os-release", b"ID=bare\n")]);
    registry.put(&layout.path, "bare", "acme/bare:1");
    let store = TempDir::new().expect("a folder");
    let scene = Scene::with(settings_of(&registry, &store)).await;
    let image = format!("{}/acme/bare:1", registry.address);
    let arguments = json!({"runtime": "shell", "image": image});
    let created = scene.client.call("create_environment", arguments).await;
    let created = created.done();
    let id = created["environment_id"].as_str().expect("an id");
    let read = json!({"path": "/etc/os-release"});
    let read = scene.call(id, "read_file", read).await.done();
    assert_eq!(read["content"], "ID=bare\n", "{read}");
    let run = json!({"code": "echo hello"});
    let text = scene.call(id, "execute", run).await.refused();
    assert!(text.contains("'sh' not found"), "{text}");
    scene.destroy(id).await;
    scene.close().await;
}

/// An image whose agent speaks another protocol makes no environment, unless its agent is not to run.
#[tokio::test]
async fn an_agent_of_another_protocol_is_refused() {
    if !have(&TOOLS) {
        return;
    }
    let _permit = machines(1).await;
    let registry = Registry::start(Variant::Plain);
    let layout = Layout::new(registry.dir.path(), "later");
    // It would not even start.
    let files: [(&str, &[u8]); 2] = [(AGENT_PATH, b"no program"), ("/motd", b"later\n")];
    layout.image("later", "amd64", &files);
    let label = "--config.label=dev.waggle.protocol=99-100";
    configure(&layout.path, "later", &[label]);
    registry.put(&layout.path, "later", "acme/later:1");
    let store = TempDir::new().expect("a folder");
    let settings = settings_of(&registry, &store);
    let image = format!("{}/acme/later:1", registry.address);
    let scene = Scene::with(settings.clone()).await;
    let arguments = json!({"runtime": "shell", "image": image});
    let call = scene.client.call("create_environment", arguments);
    let text = call.await.refused();
    let spoken = "carries an agent of protocol version 99 to 100, and this server speaks";
    for part in [&image, spoken, "WAGGLE_AGENT_INJECT=1"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(scene.list().await.is_empty());
    assert!(scene.server.descendants().is_empty());
    assert!(scene.server.run_files().is_empty());
    scene.close().await;

    let scene = Scene::with(settings.with("WAGGLE_AGENT_INJECT", "1")).await;
    let id = id_of(&create_of(&scene, "shell", &image).await);
    let read = json!({"path": "/motd"});
    let read = scene.call(&id, "read_file", read).await.done();
    assert_eq!(read["content"], "later\n", "{read}");
    scene.close().await;
}
