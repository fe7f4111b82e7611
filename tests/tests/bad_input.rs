// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What users get wrong: each mistake is a tool result marked as an error, which says what was wrong
//! and what to do next, and the environment stays usable.

#![allow(
    clippy::indexing_slicing,
    reason = "JSON gives null for what is absent; anything else that is missing fails the test"
)]

use serde_json::{Value, json};
use waggle_tests::{Client, Scene, Sdk, machines};

/// Each word list holds alternatives; the text must have one of each list, in any case.
#[track_caller]
fn assert_says(text: &str, words: &[&[&str]]) {
    let lower = text.to_lowercase();
    for alternatives in words {
        let found = alternatives
            .iter()
            .any(|word| lower.contains(&word.to_lowercase()));
        assert!(
            found,
            "expected one of {alternatives:?} in the error: {text}"
        );
    }
}

const NEXT_ENVIRONMENT: &[&str] = &["list_environments", "create_environment"];

#[tokio::test]
async fn create_refuses_what_it_cannot_make() {
    let scene = Scene::open().await;
    let refused = async |arguments: Value| {
        scene
            .client
            .call("create_environment", arguments)
            .await
            .refused()
    };

    let text = refused(json!({"runtime": "cobol"})).await;
    assert_says(&text, &[&["cobol"], &["python"], &["node"], &["shell"]]);
    assert_says(&refused(json!({})).await, &[&["runtime"]]);
    assert_says(
        &refused(json!({"runtime": 7})).await,
        &[&["runtime", "string", "7"]],
    );
    for minutes in [
        json!(0),
        json!(61),
        json!(-1),
        json!("soon"),
        json!(1.5),
        json!(1e30),
    ] {
        let text = refused(json!({"runtime": "shell", "timeout_minutes": minutes})).await;
        assert_says(&text, &[&["timeout_minutes", "integer", "u32", "number"]]);
        if minutes == 0 || minutes == 61 {
            assert_says(&text, &[&["timeout_minutes"], &["60"]]);
        }
    }
    let text = refused(json!({"runtime": "shell", "name": "x".repeat(10_000)})).await;
    assert_says(&text, &[&["name"]]);

    assert_eq!(scene.list().await.len(), 0);
    assert!(scene.server.descendants().is_empty());
    assert!(
        scene.server.run_files().is_empty(),
        "{:?}",
        scene.server.run_files()
    );
    scene.close().await;
}

#[tokio::test]
async fn every_tool_refuses_ids_of_no_environment() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let gone = scene.create("shell").await;
    scene.destroy(&gone).await;

    let calls = [
        ("execute", json!({"code": "echo"})),
        ("install_packages", json!({"packages": "six"})),
        ("write_file", json!({"path": "/tmp/x", "content": ""})),
        ("read_file", json!({"path": "/tmp/x"})),
        ("list_files", json!({})),
        ("destroy_environment", json!({})),
    ];
    for (tool, arguments) in calls {
        let text = scene.call(&gone, tool, arguments.clone()).await.refused();
        assert_says(&text, &[&[&gone], NEXT_ENVIRONMENT]);
        for malformed in [
            "",
            "nope",
            "../../etc",
            "a\nb\u{0}",
            "; rm -rf /",
            &"x".repeat(5000),
        ] {
            let text = scene
                .call(malformed, tool, arguments.clone())
                .await
                .refused();
            assert_says(&text, &[NEXT_ENVIRONMENT]);
            assert!(
                text.len() < 1000,
                "the error echoes too much: {} bytes",
                text.len()
            );
        }
        for mistyped in [json!(7), json!(null), json!(["a"])] {
            let mut arguments = arguments.clone();
            arguments["environment_id"] = mistyped;
            let text = scene.client.call(tool, arguments).await.refused();
            assert_says(&text, &[&["environment_id", "string"]]);
        }
        let text = scene.client.call(tool, arguments).await.refused();
        assert_says(&text, &[&["environment_id"]]);
    }
    scene.close().await;
}

#[tokio::test]
async fn execute_refuses_what_it_cannot_run() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("shell").await;
    let refused = async |arguments: Value| scene.call(&id, "execute", arguments).await.refused();

    assert_says(
        &refused(json!({"code": "echo", "language": "cobol"})).await,
        &[&["cobol"], &["python"]],
    );
    assert_says(&refused(json!({})).await, &[&["code"]]);
    assert_says(
        &refused(json!({"code": 7})).await,
        &[&["code", "string", "7"]],
    );
    for seconds in [json!(0), json!(301), json!(-1), json!("soon")] {
        let text = refused(json!({"code": "echo", "timeout_seconds": seconds})).await;
        assert_says(&text, &[&["timeout_seconds", "integer", "u32", "number"]]);
        if seconds == 0 || seconds == 301 {
            assert_says(&text, &[&["timeout_seconds"], &["300"]]);
        }
    }

    // The limit is exact: one byte more is refused, and the error names the way around.
    let code = |length: usize| {
        let end = "\necho whole\n";
        format!("#{}{end}", "x".repeat(length - end.len() - 1))
    };
    let text = refused(json!({"code": code(512_001)})).await;
    assert_says(
        &text,
        &[
            &["512000", "512,000", "512 000"],
            &["512001", "512,001", "512 001"],
            &["write_file"],
        ],
    );
    assert_eq!(scene.output(&id, &code(512_000)).await, "whole\n");

    // Bytes count, not characters.
    let text = refused(json!({"code": "ü".repeat(256_001)})).await;
    assert_says(&text, &[&["512"]]);

    scene.close().await;
}

#[tokio::test]
async fn files_refuse_paths_that_do_not_work() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("shell").await;
    let refused = async |tool: &str, arguments: Value| {
        let text = scene.call(&id, tool, arguments).await.refused();
        assert!(
            text.len() < 1000,
            "the error echoes too much: {} bytes",
            text.len()
        );
        text
    };

    for tool in ["write_file", "read_file", "list_files"] {
        let arguments = |path: &str| match tool {
            "write_file" => json!({"path": path, "content": "x"}),
            _ => json!({"path": path}),
        };
        for relative in ["notes.txt", "./x", "../x", "~/x"] {
            assert_says(&refused(tool, arguments(relative)).await, &[&["absolute"]]);
        }
        assert_says(&refused(tool, arguments("")).await, &[&["path"]]);
        assert_says(&refused(tool, arguments("/tmp/a\u{0}b")).await, &[&["nul"]]);
        let long = format!("/{}", "x/".repeat(5000));
        assert_says(
            &refused(tool, arguments(&long)).await,
            &[&["long", "4095", "4096"]],
        );
        // A file in the middle of a path.
        assert_says(
            &refused(tool, arguments("/etc/passwd/x")).await,
            &[&["/etc/passwd/x"]],
        );
    }

    let text = refused("read_file", json!({"path": "/tmp/absent"})).await;
    assert_says(
        &text,
        &[
            &["/tmp/absent"],
            &["not exist", "not found", "no such"],
            &["list_files"],
        ],
    );
    let text = refused("read_file", json!({"path": "/etc"})).await;
    assert_says(&text, &[&["folder", "directory"], &["list_files"]]);
    let text = refused("read_file", json!({"path": "/etc/shadow"})).await;
    assert_says(&text, &[&["permission"]]);
    let text = refused("read_file", json!({"path": "/dev/zero"})).await;
    assert_says(&text, &[&["regular", "device", "special"]]);
    let text = refused(
        "read_file",
        json!({"path": "/etc/passwd", "encoding": "latin1"}),
    )
    .await;
    assert_says(&text, &[&["base64"], &["utf-8"]]);
    let text = refused("read_file", json!({"path": "/etc/passwd", "offset": -1})).await;
    assert_says(&text, &[&["offset", "u64", "integer"]]);

    let text = refused("write_file", json!({"path": "/etc", "content": ""})).await;
    assert_says(&text, &[&["folder", "directory"]]);
    let text = refused("write_file", json!({"path": "/etc/passwd", "content": ""})).await;
    assert_says(&text, &[&["permission"]]);
    let arguments = json!({"path": "/tmp/x", "content": "no base64!", "encoding": "base64"});
    assert_says(&refused("write_file", arguments).await, &[&["base64"]]);
    assert_says(
        &refused("write_file", json!({"path": "/tmp/x"})).await,
        &[&["content"]],
    );

    let text = refused("list_files", json!({"path": "/tmp/absent"})).await;
    assert_says(&text, &[&["/tmp/absent"]]);
    let text = refused("list_files", json!({"path": "/etc/passwd"})).await;
    assert_says(&text, &[&["folder", "directory"], &["read_file"]]);
    let text = refused("list_files", json!({"path": "/tmp", "depth": 0})).await;
    assert_says(&text, &[&["depth"]]);

    // Nothing of it was written, and the environment works on.
    assert_eq!(
        // The program itself lies in /tmp while it runs.
        scene
            .output(&id, "ls /tmp | grep -v ^waggle_; head -c 4 /etc/passwd")
            .await,
        "root"
    );
    scene.close().await;
}

/// Every client sees a mistake in the arguments as something to correct, not as a broken server; and
/// a tool that does not exist as the protocol's error.
#[tokio::test]
async fn older_clients_see_the_same_errors() {
    let scene = Scene::open().await;
    let old = Client::http(Sdk::V1, &scene.server.url()).await;
    for client in [&scene.client, &old] {
        let result = client
            .call("create_environment", json!({"runtime": 7}))
            .await;
        assert_says(&result.refused(), &[&["runtime", "string"]]);
        let unknown = client.try_call("make_coffee", json!({})).await;
        match unknown {
            Ok(result) => assert_says(&result.refused(), &[&["make_coffee"]]),
            Err(error) => {
                assert_eq!(error.code, Some(-32602), "{error:?}");
                assert_says(&error.message, &[&["make_coffee", "not found"]]);
            }
        }
    }
    old.close().await;
    scene.close().await;
}
