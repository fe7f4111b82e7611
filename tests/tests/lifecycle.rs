// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! How environments and servers end: by request, by capacity, by idleness, by the death of a machine
//! and by a signal; and that nothing is left in each case.

#![allow(
    clippy::indexing_slicing,
    reason = "JSON gives null for what is absent; anything else that is missing fails the test"
)]

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use waggle_tests::server::PROMPT;
use waggle_tests::{Scene, Server, Settings, machines, poll, processes};

#[tokio::test]
async fn capacity_is_kept_and_given_back() {
    let _permit = machines(1).await;
    let scene = Scene::with(Settings::default().with("WAGGLE_MAX_ENVIRONMENTS", "1")).await;
    let create = || {
        scene
            .client
            .call("create_environment", json!({"runtime": "shell"}))
    };

    // Three at once, one place: exactly one gets it, however they race.
    let (one, two, three) = tokio::join!(create(), create(), create());
    let (made, refused): (Vec<_>, Vec<_>) = [one, two, three]
        .into_iter()
        .partition(|result| !result.is_error);
    assert_eq!(made.len(), 1);
    for result in refused {
        let text = result.refused();
        assert!(text.contains("destroy_environment"), "{text}");
        assert!(text.contains('1'), "the limit: {text}");
    }
    let id = made[0].structured["environment_id"]
        .as_str()
        .expect("an id");
    assert_eq!(scene.list().await.len(), 1);
    assert_eq!(scene.output(id, "echo alive").await, "alive\n");

    // The place is free as soon as the call returned, and its processes and files are gone.
    scene.destroy(id).await;
    assert!(
        scene.server.descendants().is_empty(),
        "{:#?}",
        scene.server.descendants()
    );
    assert!(
        scene.server.run_files().is_empty(),
        "{:#?}",
        scene.server.run_files()
    );
    let again = scene.create("shell").await;
    assert_ne!(again, id);
    scene.close().await;
}

/// A killed machine: the call in flight ends at once, later ones say what happened, the list shows
/// it, and its place can be freed and used again.
#[tokio::test]
async fn death_of_a_machine_is_noticed_and_said() {
    let _permit = machines(1).await;
    let scene = Scene::with(Settings::default().with("WAGGLE_MAX_ENVIRONMENTS", "1")).await;
    let id = scene.create("shell").await;
    scene.output(&id, "echo kept > /tmp/kept").await;

    let vmm = scene.server.vmm_of(&id);
    let arguments = json!({"code": "touch /tmp/begun; sleep 200", "timeout_seconds": 250});
    let in_flight = scene.call(&id, "execute", arguments);
    let killing = async {
        poll::until("the call runs", async || {
            let listed = scene
                .call(&id, "list_files", json!({"path": "/tmp"}))
                .await
                .done();
            listed.to_string().contains("begun").then_some(())
        })
        .await;
        vmm.signal(Signal::SIGKILL);
        Instant::now()
    };
    let (result, killed) = tokio::join!(in_flight, killing);
    assert!(
        killed.elapsed() < PROMPT,
        "noticed after {:?}",
        killed.elapsed()
    );
    let text = result.refused();
    assert!(text.contains("create_environment"), "{text}");

    let status = poll::until("the list shows it", async || {
        scene.status(&id).await.filter(|status| status != "running")
    });
    assert_eq!(status.await, "error");
    for (tool, arguments) in [
        ("execute", json!({"code": "echo"})),
        ("read_file", json!({"path": "/tmp/kept"})),
        ("list_files", json!({})),
    ] {
        let text = scene.call(&id, tool, arguments).await.refused();
        assert!(
            text.contains(&id) && text.contains("create_environment"),
            "{tool}: {text}"
        );
    }
    // Nothing of the machine outlives it, even before anyone destroys it.
    scene.server.until_childless().await;

    scene.destroy(&id).await;
    assert_eq!(scene.list().await.len(), 0);
    let next = scene.create("shell").await;
    assert_eq!(
        scene
            .output(&next, "cat /tmp/kept 2>/dev/null || echo fresh")
            .await,
        "fresh\n"
    );
    scene.close().await;
}

/// So is the death of the process that carries the machine's vsock: nobody can reach it any more.
#[tokio::test]
async fn death_of_a_device_process_is_noticed() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("shell").await;
    let family = scene.server.descendants();
    let device = family
        .iter()
        .find(|process| process.command.contains("vhost-device-vsock"));
    device
        .expect("a vsock device process")
        .signal(Signal::SIGKILL);
    let status = poll::until("the list shows it", async || {
        scene.status(&id).await.filter(|status| status != "running")
    });
    assert_eq!(status.await, "error");
    let text = scene
        .call(&id, "execute", json!({"code": "echo"}))
        .await
        .refused();
    assert!(text.contains("create_environment"), "{text}");
    scene.server.until_childless().await;
    scene.close().await;
}

/// Idle for longer than its timeout: destroyed. Used in between: not.
#[tokio::test]
async fn reaper_destroys_what_is_idle() {
    let _permit = machines(2).await;
    let scene = Scene::with(Settings::default().with("WAGGLE_REAPER_INTERVAL", "1s")).await;
    let create = async || {
        let arguments = json!({"runtime": "shell", "timeout_minutes": 1});
        let created = scene
            .client
            .call("create_environment", arguments)
            .await
            .done();
        created["environment_id"]
            .as_str()
            .expect("an id")
            .to_owned()
    };
    let idle = create().await;
    let used = create().await;

    let started = Instant::now();
    let last_use = Instant::now();
    let mut touched = false;
    poll::until("the idle one is reaped", async || {
        if !touched && started.elapsed() > Duration::from_secs(30) {
            scene.output(&used, "echo used").await;
            touched = true;
        }
        scene.status(&idle).await.is_none().then_some(())
    })
    .await;
    assert!(touched, "reaped after {:?}", last_use.elapsed());
    assert_eq!(scene.status(&used).await.as_deref(), Some("running"));
    let text = scene
        .call(&idle, "execute", json!({"code": "echo"}))
        .await
        .refused();
    assert!(text.contains("create_environment"), "{text}");
    let machine = |id: &str| {
        let family = scene.server.descendants();
        family.iter().any(|process| {
            process
                .directory
                .as_ref()
                .is_some_and(|path| path.ends_with(id))
        })
    };
    poll::until("its machine is gone", async || {
        (!machine(&idle)).then_some(())
    })
    .await;
    assert!(machine(&used));
    scene.close().await;
}

/// A server that crashes takes its machines with it, and the next one clears up its files.
#[tokio::test]
async fn crash_leaves_no_machine() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    scene.create("shell").await;
    let (family, data) = scene.server.crash().await;
    assert!(family.len() >= 2, "a VMM and its vsock device: {family:#?}");
    poll::until("the machine is gone", async || {
        family
            .iter()
            .all(|process| !process.is_alive())
            .then_some(())
    })
    .await;
    assert!(processes::of_folder(data.path()).is_empty());
    let next = Server::start_on(data, Settings::default()).await;
    assert!(next.run_files().is_empty(), "{:#?}", next.run_files());
    next.stop(Signal::SIGTERM).await;
}

async fn ends_on(signal: Signal) {
    let _permit = machines(2).await;
    let scene = Scene::open().await;
    let id = scene.create("shell").await;
    scene.create("python").await;
    // A call in flight does not hold the server up.
    let code = "touch /tmp/begun; sleep 250";
    let arguments = json!({"environment_id": id, "code": code, "timeout_seconds": 300});
    let in_flight = scene.client.try_call("execute", arguments);
    let Scene { server, client } = &scene;
    let begun = poll::until("the call runs", async || {
        let arguments = json!({"environment_id": id, "path": "/tmp"});
        let listed = client.call("list_files", arguments).await.done();
        listed.to_string().contains("begun").then_some(())
    });
    let stop = async {
        begun.await;
        let family = server.descendants();
        assert!(
            family.len() >= 4,
            "two machines of two processes at least: {family:#?}"
        );
        server.signal(signal);
        (family, Instant::now())
    };
    // The client gets an answer or a broken connection, but does not hang.
    let (outcome, (family, signalled)) = tokio::join!(in_flight, stop);
    assert!(
        signalled.elapsed() < PROMPT,
        "{:?} until {outcome:?}",
        signalled.elapsed()
    );
    scene.server.ended(&family).await;
}

#[tokio::test]
async fn interrupt_ends_everything() {
    ends_on(Signal::SIGINT).await;
}

#[tokio::test]
async fn terminate_ends_everything() {
    ends_on(Signal::SIGTERM).await;
}
