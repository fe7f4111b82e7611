// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Two environments side by side do not see each other, nor more of the host than they must.

#![allow(
    clippy::indexing_slicing,
    reason = "JSON gives null for what is absent; anything else that is missing fails the test"
)]

use serde_json::json;
use waggle_protocol::boot::{AGENT_PORT, CONFIG_PORT};
use waggle_tests::{Scene, machines, poll};

/// Looks for a mark in the arguments and environment of every process, and in the files that two
/// environments could share if one were careless.
const LOOK: &str = r#"
import glob, os
mark = b"mark-of-" + b"the-neighbour"
for path in glob.glob("/proc/[0-9]*/cmdline") + glob.glob("/proc/[0-9]*/environ"):
    try:
        if mark in open(path, "rb").read():
            print("process", path)
    except OSError:
        pass
for top in ["/home", "/tmp", "/var/tmp", "/dev/shm", "/run", "/mnt", "/etc"]:
    for folder, _, files in os.walk(top):
        for name in files:
            if mark.decode() in name:
                print("file", os.path.join(folder, name))
"#;

#[tokio::test]
async fn neighbours_do_not_see_files_and_processes() {
    let _permit = machines(2).await;
    let scene = Scene::open().await;
    let here = scene.create("python").await;
    let there = scene.create("python").await;

    let code = "import os, subprocess\n\
                for folder in ['/home/sandbox', '/tmp', '/var/tmp', '/dev/shm']:\n\
                \x20   open(folder + '/mark-of-the-neighbour', 'w').close()\n\
                subprocess.run(['sleep', '15'], env={'MARK': 'mark-of-the-neighbour', **os.environ})";
    let arguments = json!({"code": code, "timeout_seconds": 60});
    let running = scene.call(&here, "execute", arguments);
    let looking = async {
        // The look works: it sees the mark where the mark is.
        let seen = poll::until("the process and the files are there", async || {
            let seen = scene.output(&here, LOOK).await;
            seen.contains("process").then_some(seen)
        });
        let seen = seen.await;
        assert_eq!(seen.matches("file ").count(), 4, "{seen}");
        assert_eq!(scene.output(&there, LOOK).await, "");
    };
    let (result, ()) = tokio::join!(running, looking);
    assert_eq!(result.done()["exit_code"], 0);

    // Nor the names and secrets of the other machine.
    let identity = "import socket\nprint(socket.gethostname(), open('/proc/sys/kernel/random/boot_id').read())";
    assert_ne!(
        scene.output(&here, identity).await,
        scene.output(&there, identity).await
    );
    scene.close().await;
}

/// Whatever a program dials over vsock, it reaches neither an agent (its own refuses all but the
/// host), nor a neighbour, nor the configuration that its init received; and there is no network.
#[tokio::test]
async fn programs_reach_nobody() {
    let _permit = machines(2).await;
    let scene = Scene::open().await;
    let here = scene.create("python").await;
    let there = scene.create("python").await;

    let code = format!(
        r#"
import errno, socket
def dial(cid, port):
    s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    s.settimeout(4)
    try:
        s.connect((cid, port))
        answer = s.recv(64)
        return "answers " + repr(answer) if answer else "closed"
    except OSError as error:
        return "refused " + str(error)
    finally:
        s.close()
for cid in (1, 3, 4, 5):
    print("agent of", cid, dial(cid, {AGENT_PORT}))
for port in ({AGENT_PORT}, {CONFIG_PORT}, 22, 1024):
    print("host at", port, dial(2, port))
s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
try:
    s.bind((socket.VMADDR_CID_ANY, {AGENT_PORT}))
    print("poses as the agent")
except OSError as error:
    print("bind", errno.errorcode[error.errno])
for address in ("192.0.2.1", "10.0.2.2", "169.254.169.254"):
    try:
        socket.create_connection((address, 80), timeout=4)
        print("answers", address)
    except OSError as error:
        print("network", errno.errorcode[error.errno])
# The kernel brings dummy0 along: a sink without a road, and down.
print(sorted(name for _, name in socket.if_nameindex() if name != "dummy0"))
print(len(open("/proc/net/route").readlines()) - 1, "routes")
"#
    );
    for id in [&here, &there] {
        let output = scene.output(id, &code).await;
        assert!(!output.contains("answers"), "{output}");
        assert!(!output.contains("poses"), "{output}");
        // Not just filtered or slow: there is no way out at all.
        assert_eq!(output.matches("network ENETUNREACH").count(), 3, "{output}");
        assert!(output.ends_with("['lo']\n0 routes\n"), "{output}");
    }
    scene.close().await;
}

/// The program runs without the rights that would let it take the machine over.
#[tokio::test]
async fn programs_have_no_privilege() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("python").await;
    let code = r#"
import os
for path in ["/etc/shadow", "/proc/1/environ", "/proc/1/mem", "/dev/vda", "/dev/vdb", "/dev/vdc", "/dev/mem"]:
    try:
        open(path, "rb").read(1)
        print("opened", path)
    except OSError:
        pass
for path in ["/etc/passwd", "/usr/libexec/waggle/waggle-guest"]:
    try:
        open(path, "ab").close()
        print("wrote", path)
    except OSError:
        pass
print([name for name in os.environ if "WAGGLE" in name or "TOKEN" in name])
status = open("/proc/self/status").read()
print([line.split()[1] for line in status.splitlines() if line.startswith(("CapPrm", "CapEff"))])
"#;
    assert_eq!(
        scene.output(&id, code).await,
        "[]\n['0000000000000000', '0000000000000000']\n"
    );
    scene.close().await;
}
