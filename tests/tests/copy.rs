// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! `waggle cp` against real machines: folders in and out, unchanged; failures that are seen; nothing
//! held in memory, nothing left behind.

#![allow(
    clippy::indexing_slicing,
    reason = "JSON gives null for what is absent; anything else that is missing fails the test"
)]

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;
use waggle_tests::poll::until;
use waggle_tests::server::PROMPT;
use waggle_tests::{Scene, Settings, machines, settings};

/// How long one copy may take on an emulated machine under load.
const COPY_TIMEOUT: Duration = Duration::from_secs(240);

fn command(scene: &Scene, source: &str, destination: &str) -> Command {
    let mut command = Command::new(settings::path(settings::BIN));
    command
        .args(["cp", source, destination])
        .env(
            "WAGGLE_SERVER",
            format!("http://{}", scene.server.authority()),
        )
        .env_remove("WAGGLE_AUTH_TOKEN_FILE")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn finish(mut command: Command) -> Output {
    let output = timeout(COPY_TIMEOUT, command.output()).await;
    output.expect("the copy ends").expect("it starts")
}

/// Copies, and gives what it warned of.
async fn copy(scene: &Scene, source: &str, destination: &str) -> String {
    let output = finish(command(scene, source, destination)).await;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "cp {source} {destination}: {told}");
    told
}

/// A copy that must fail, and why it did.
async fn refused(scene: &Scene, source: &str, destination: &str) -> String {
    let output = finish(command(scene, source, destination)).await;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        output.status.code(),
        Some(1),
        "cp {source} {destination}: {told}"
    );
    assert_eq!(told.lines().count(), 1, "one line: {told}");
    told
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of letters")
}

#[tokio::test]
async fn folders_go_in_and_come_out_unchanged() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("python").await;
    let here = TempDir::new().expect("a folder");
    let project = here.path().join("project");
    let deep = project.join("a folder").join("n".repeat(150));
    fs::create_dir_all(&deep).expect("folders");
    fs::create_dir(project.join("empty")).expect("a folder");
    let large: Vec<u8> = (0..3_000_000_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    fs::write(deep.join("large.bin"), &large).expect("a file");
    fs::write(project.join("Grüße 🐝\n.txt"), "text").expect("a file");
    fs::write(project.join("run.sh"), "#!/bin/sh\n").expect("a file");
    fs::set_permissions(project.join("run.sh"), Permissions::from_mode(0o750)).expect("a mode");
    symlink("run.sh", project.join("link")).expect("a link");
    symlink("../run.sh", project.join("a folder/up")).expect("a link");

    // A new name: the copy is called so. A folder that exists: it goes into it.
    let there = format!("{id}:/home/sandbox/copied");
    assert_eq!(copy(&scene, text(&project), &there).await, "");
    let code = "import hashlib, os\n\
                os.chdir('/home/sandbox/copied')\n\
                print(sorted(os.listdir('.')))\n\
                s = os.stat('run.sh'); print(oct(s.st_mode & 0o7777), s.st_uid)\n\
                print(os.readlink('link'), os.readlink('a folder/up'))\n\
                data = open('a folder/' + 'n' * 150 + '/large.bin', 'rb').read()\n\
                print(len(data), data[-4:].hex())";
    let expected = format!(
        "['Grüße 🐝\\n.txt', 'a folder', 'empty', 'link', 'run.sh']\n0o750 1000\nrun.sh ../run.sh\n\
         {} {}\n",
        large.len(),
        large[large.len() - 4..]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    );
    assert_eq!(scene.output(&id, code).await, expected);
    copy(&scene, text(&project), &format!("{id}:/home/sandbox")).await;
    assert_eq!(
        scene
            .output(&id, "import os; print(len(os.listdir('project')))")
            .await,
        "5\n"
    );

    // And back, under either name.
    let back = here.path().join("back");
    assert_eq!(copy(&scene, &there, text(&back)).await, "");
    assert!(
        fs::read(
            back.join("a folder")
                .join("n".repeat(150))
                .join("large.bin")
        )
        .expect("there")
            == large
    );
    assert_eq!(
        fs::read_to_string(back.join("Grüße 🐝\n.txt")).expect("there"),
        "text"
    );
    let run = fs::metadata(back.join("run.sh")).expect("there");
    let original = fs::metadata(project.join("run.sh")).expect("there");
    assert_eq!(run.mtime(), original.mtime());
    assert_eq!(run.permissions().mode() & 0o700, 0o700);
    assert_eq!(
        fs::read_link(back.join("a folder/up")).expect("a link"),
        Path::new("../run.sh")
    );
    assert!(back.join("empty").is_dir());
    copy(&scene, &there, text(here.path())).await;
    assert!(here.path().join("copied/run.sh").is_file());

    // A file alone, and root's rights.
    let file = here.path().join("one.sh");
    copy(&scene, &format!("{there}/run.sh"), text(&file)).await;
    assert_eq!(fs::read_to_string(&file).expect("there"), "#!/bin/sh\n");
    let elsewhere = format!("{id}:/etc/one.sh");
    let told = refused(&scene, text(&file), &elsewhere).await;
    assert!(told.contains("permission denied"), "{told}");
    let mut as_root = command(&scene, text(&file), &elsewhere);
    as_root.args(["--user", "root"]);
    assert!(finish(as_root).await.status.success());
    assert_eq!(
        scene
            .output(&id, "import os; print(os.stat('/etc/one.sh').st_uid)")
            .await,
        "0\n"
    );
    scene.close().await;
}

#[tokio::test]
async fn archives_go_through_standard_input_and_output() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("python").await;
    let code = "import os\nos.mkdir('out')\nopen('out/f', 'w').write('x' * 10)\n\
                with open('out/holes', 'wb') as f:\n    f.truncate(1 << 30)\n    f.seek(1 << 29)\n    f.write(b'y')";
    scene.output(&id, code).await;

    // A gigabyte of holes takes next to nothing on the way.
    let output = finish(command(&scene, &format!("{id}:/home/sandbox/out"), "-")).await;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        (1024..1_000_000).contains(&output.stdout.len()),
        "{} bytes",
        output.stdout.len()
    );

    let mut put = command(&scene, "-", &format!("{id}:/home/sandbox/in"));
    put.stdin(Stdio::piped());
    let mut put = put.spawn().expect("it starts");
    let mut input = put.stdin.take().expect("piped");
    input.write_all(&output.stdout).await.expect("it reads on");
    drop(input);
    let status = timeout(COPY_TIMEOUT, put.wait()).await;
    assert!(status.expect("it ends").expect("a status").success());
    let code = "import os\ns = os.stat('in/holes')\n\
                print(open('in/f').read(), s.st_size, s.st_blocks * 512 < 1 << 20)";
    assert_eq!(
        scene.output(&id, code).await,
        "xxxxxxxxxx 1073741824 True\n"
    );

    // On this host as well.
    let here = TempDir::new().expect("a folder");
    copy(
        &scene,
        &format!("{id}:/home/sandbox/out/holes"),
        text(here.path()),
    )
    .await;
    let holes = fs::metadata(here.path().join("holes")).expect("there");
    assert_eq!(holes.len(), 1 << 30);
    assert!(holes.blocks() * 512 < 1 << 20, "{} blocks", holes.blocks());
    scene.close().await;
}

#[tokio::test]
async fn failures_are_told_in_one_line_and_leave_the_environment_usable() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("python").await;
    let here = TempDir::new().expect("a folder");
    let to = text(here.path());

    let told = refused(&scene, &format!("{id}:/no/such"), to).await;
    assert!(told.contains("/no/such"), "{told}");
    let told = refused(&scene, "env-000000000000:/tmp", to).await;
    assert!(told.contains("env-000000000000"), "{told}");
    for (source, destination) in [(to, to), (to, &format!("{id}:relative"))] {
        refused(&scene, source, destination).await;
    }
    let told = refused(&scene, &format!("{id}:/tmp"), &format!("{to}/no/such")).await;
    assert!(
        told.contains("no/such") || told.contains("folder"),
        "{told}"
    );

    // What cannot be read is missing in the copy, and that is a failure.
    let code = "import os\nos.mkdir('part')\nopen('part/open', 'w').write('x')\n\
                open('part/closed', 'w').close()\nos.chmod('part/closed', 0)";
    scene.output(&id, code).await;
    let told = refused(&scene, &format!("{id}:/home/sandbox/part"), to).await;
    assert!(
        told.contains("closed") && told.contains("permission"),
        "{told}"
    );
    assert_eq!(
        fs::read_to_string(here.path().join("part/open")).expect("the rest is there"),
        "x"
    );

    // No archive at all.
    let mut put = command(&scene, "-", &format!("{id}:/home/sandbox/in"));
    put.stdin(Stdio::piped());
    let mut put = put.spawn().expect("it starts");
    let mut input = put.stdin.take().expect("piped");
    // The answer may come before all of it is sent.
    let _ = input.write_all(&[b'x'; 4_000_000]).await;
    drop(input);
    let output = timeout(COPY_TIMEOUT, put.wait_with_output()).await;
    let output = output.expect("it ends").expect("its output");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("archive"), "{told}");

    // Links that lead out stay out.
    let code = "import os\nos.mkdir('links')\nos.symlink('/etc/passwd', 'links/out')\n\
                os.symlink('f', 'links/in')\nopen('links/f', 'w').write('x')";
    scene.output(&id, code).await;
    let told = copy(&scene, &format!("{id}:/home/sandbox/links"), to).await;
    assert!(told.contains("/etc/passwd"), "{told}");
    assert!(fs::symlink_metadata(here.path().join("links/out")).is_err());
    assert!(here.path().join("links/in").is_symlink());

    assert_eq!(scene.output(&id, "print('usable')").await, "usable\n");
    scene.close().await;
}

#[tokio::test]
async fn a_copy_that_is_given_up_ends_in_the_guest_and_one_under_way_keeps_its_environment() {
    let _permit = machines(1).await;
    let settings = Settings::default().with("WAGGLE_REAPER_INTERVAL", "1s");
    let scene = Scene::with(settings).await;
    let id = scene.create("python").await;
    // Random, so that there are no holes; more than all buffers on the way hold.
    let code = "import os\nwith open('big', 'wb') as f:\n    for _ in range(64): f.write(os.urandom(1 << 20))";
    scene.output(&id, code).await;

    // Nobody reads its output, so it stands still, with little of it held by the server.
    let mut stuck = command(&scene, &format!("{id}:/home/sandbox/big"), "-");
    let mut stuck = stuck.spawn().expect("it starts");
    let running = "import os\n\
                   def name(pid):\n    try: return open(f'/proc/{pid}/cmdline').read()\n    except OSError: return ''\n\
                   print(sum('waggle-tool' in name(pid) for pid in os.listdir('/proc') if pid.isdigit()))";
    until("the guest packs", async || {
        (scene.output(&id, running).await == "1\n").then_some(())
    })
    .await;
    stuck.kill().await.expect("it can be killed");
    until("the guest packs no more", async || {
        (scene.output(&id, running).await == "0\n").then_some(())
    })
    .await;

    // A server that goes down ends a copy, and the copy says so.
    let mut cut = command(&scene, &format!("{id}:/home/sandbox/big"), "-");
    let cut = cut.spawn().expect("it starts");
    until("the guest packs", async || {
        (scene.output(&id, running).await == "1\n").then_some(())
    })
    .await;
    let arguments = json!({"environment_id": id});
    let destroyed = scene.client.call("destroy_environment", arguments).await;
    assert_eq!(destroyed.done()["status"], "destroyed");
    let output = timeout(COPY_TIMEOUT, cut.wait_with_output()).await;
    let output = output.expect("it ends").expect("its output");
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("not whole"), "{told}");
    assert!(output.stdout.len() < 64 << 20);
    scene.close().await;
}

/// A connection with a request for an archive, or with the head of one that sends an archive.
async fn request(scene: &Scene, method: &str, id: &str, more: &str) -> TcpStream {
    let authority = scene.server.authority();
    let mut stream = TcpStream::connect(authority).await.expect("it listens");
    let head = format!(
        "{method} /environments/{id}/archive?path=/home/sandbox/big HTTP/1.1\r\n\
         host: {authority}\r\n{more}\r\n"
    );
    let sent = stream.write_all(head.as_bytes()).await;
    sent.expect("it reads");
    stream
}

/// What waggle's tool in the guest has read so far, if it runs.
const PROGRESS: &str = "import os\n\
    def look(pid, name):\n    try: return open(f'/proc/{pid}/{name}').read()\n    except OSError: return ''\n\
    print([look(p, 'stat').split()[13:15] for p in os.listdir('/proc') if p.isdigit() and 'waggle-tool' in look(p, 'cmdline')])";

async fn until_stalled(scene: &Scene, id: &str) {
    let mut last = String::new();
    until("the guest's tool waits", async || {
        let now = scene.output(id, PROGRESS).await;
        let stalled = now != "[]\n" && now == last;
        last = now;
        stalled.then_some(())
    })
    .await;
}

#[tokio::test]
async fn clients_that_stall_hold_up_nobody() {
    let _permit = machines(2).await;
    let scene = Scene::open().await;
    let code = "import os\nwith open('big', 'wb') as f:\n    for _ in range(64): f.write(os.urandom(1 << 20))";
    let (first, second) = (scene.create("python").await, scene.create("python").await);
    for id in [&first, &second] {
        scene.output(id, code).await;
    }

    // One that stops reading, and one that stops sending, whose environment is destroyed.
    let mut reads = request(&scene, "GET", &first, "").await;
    let mut head = [0; 15];
    reads.read_exact(&mut head).await.expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    until_stalled(&scene, &first).await;
    let mut sends = request(&scene, "PUT", &first, "content-length: 1000000\r\n").await;
    sends.write_all(&[0; 1000]).await.expect("it reads");
    timeout(PROMPT, scene.destroy(&first))
        .await
        .expect("destroyed in time");
    let mut answer = vec![0; 12];
    let answered = timeout(PROMPT, sends.read_exact(&mut answer)).await;
    answered.expect("in time").expect("an answer");
    assert_eq!(answer, b"HTTP/1.1 502");

    // The same, and the server is stopped: that it ends orderly is checked there.
    let _reads_still = reads;
    let _reads = request(&scene, "GET", &second, "").await;
    until_stalled(&scene, &second).await;
    let mut sends = request(&scene, "PUT", &second, "content-length: 1000000\r\n").await;
    sends.write_all(&[0; 1000]).await.expect("it reads");
    timeout(PROMPT, scene.close())
        .await
        .expect("stopped in time");
}
