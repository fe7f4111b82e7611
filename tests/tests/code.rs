// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Running code in real machines: each runtime, awkward text, streams, exit codes, signals,
//! deadlines, many calls in a row and at once.

#![allow(
    clippy::indexing_slicing,
    reason = "JSON gives null for what is absent; anything else that is missing fails the test"
)]

use std::time::Duration;

use serde_json::{Value, json};
use waggle_tests::{Scene, Settings, machines, poll};

/// How each runtime prints a text, and how it exits and dies.
struct Dialect {
    runtime: &'static str,
    hello: &'static str,
    streams: &'static str,
    exit_7: &'static str,
    segfault: &'static str,
}

const DIALECTS: &[Dialect] = &[
    Dialect {
        runtime: "python",
        hello: "import sys\nprint('hello from', sys.implementation.name)",
        streams: "import sys\nfor i in range(3):\n    print('out', i)\n    print('err', i, file=sys.stderr)",
        exit_7: "import sys\nprint('before')\nsys.exit(7)",
        segfault: "import os, signal\nprint('before', flush=True)\nos.kill(os.getpid(), signal.SIGSEGV)",
    },
    Dialect {
        runtime: "node",
        hello: "console.log('hello from', process.release.name)",
        streams: "for (let i = 0; i < 3; i++) { console.log('out', i); console.error('err', i) }",
        exit_7: "console.log('before')\nprocess.exit(7)",
        segfault: "require('fs').writeSync(1, 'before\\n'); process.kill(process.pid, 'SIGSEGV'); setInterval(() => {}, 1000)",
    },
    Dialect {
        runtime: "shell",
        hello: "echo hello from $(basename /bin/sh)",
        streams: "for i in 0 1 2; do echo out $i; echo err $i >&2; done",
        exit_7: "echo before\nexit 7",
        segfault: "echo before\nkill -SEGV $$",
    },
];

async fn speaks(dialect: &Dialect, name: &str) {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create(dialect.runtime).await;

    assert_eq!(
        scene.output(&id, dialect.hello).await,
        format!("hello from {name}\n")
    );

    let result = scene.execute(&id, dialect.streams).await;
    assert_eq!(result["stdout"], "out 0\nout 1\nout 2\n");
    assert_eq!(result["stderr"], "err 0\nerr 1\nerr 2\n");
    assert_eq!(result["exit_code"], 0);

    // What the program answers is a result, not an error of the call.
    let result = scene.execute(&id, dialect.exit_7).await;
    assert_eq!(result["exit_code"], 7, "{result}");
    assert_eq!(result["ended"], "exited");
    assert_eq!(result["stdout"], "before\n");

    let result = scene.execute(&id, dialect.segfault).await;
    assert_eq!(result["exit_code"], 128 + 11, "{result}");
    assert_eq!(result["ended"], "signal");
    assert_eq!(result["signal"], 11);
    assert_eq!(result["stdout"], "before\n");

    scene.close().await;
}

#[tokio::test]
async fn python_runs() {
    speaks(&DIALECTS[0], "cpython").await;
}

#[tokio::test]
async fn node_runs() {
    speaks(&DIALECTS[1], "node").await;
}

#[tokio::test]
async fn shell_runs() {
    speaks(&DIALECTS[2], "sh").await;
}

/// Text that breaks whoever pastes it into a command line, a JSON string or a format.
const AWKWARD: &str = r#"quotes ' " ` '' "" \' \" and \\ backslashes \n \t \0 \x41
	tabs, %s %d {0} ${HOME} $(id) `id` $$ !! ~ * ? [a] # ; & | < >
Grüße, 世界, 🐝, e + ́ = é, right-to-left: שלום
EOF
'''
"""
-- end"#;

#[tokio::test]
async fn awkward_text_survives_in_every_language() {
    let _permit = machines(2).await;
    let scene = Scene::open().await;
    let python = scene.create("python").await;
    let node = scene.create("node").await;
    let literal = serde_json::to_string(AWKWARD).expect("JSON");

    // A JSON string is a literal in JavaScript and, but for surrogates that it does not use, Python.
    let comment = AWKWARD.replace('\n', " ");
    let code = format!(
        "# {comment}\nimport sys\n\ndef f(text):\n\tif text:\n\t\tsys.stdout.write(text)\n\nf({literal})\n"
    );
    assert_eq!(scene.output(&python, &code).await, AWKWARD);
    let code = format!("const text = {literal};\n\n// {comment}\nprocess.stdout.write(text)\n");
    assert_eq!(scene.output(&node, &code).await, AWKWARD);
    let code = format!("# {comment}\ncat <<'-- end of text'\n{AWKWARD}\n-- end of text\n");
    let arguments = json!({"code": code, "language": "shell"});
    let result = scene.call(&python, "execute", arguments).await.done();
    assert_eq!(result["stdout"], format!("{AWKWARD}\n"));

    scene.close().await;
}

/// Code is a file of its own, run as the user `sandbox` from its home, and gone afterwards.
#[tokio::test]
async fn code_runs_as_sandbox_from_a_file_that_is_removed() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("python").await;

    let code = "import getpass, os\n\
                print(getpass.getuser(), os.getuid(), os.getcwd())\nprint(__file__)";
    let output = scene.output(&id, code).await;
    let mut lines = output.lines();
    assert_eq!(lines.next(), Some("sandbox 1000 /home/sandbox"));
    let file = lines.next().expect("a file");
    assert!(
        file.starts_with("/tmp/waggle_") && file.ends_with(".py"),
        "{file}"
    );

    // However it ends: by itself, by a failure, by a signal, at its deadline.
    scene.execute(&id, "raise SystemExit(3)").await;
    scene.execute(&id, "import os; os.abort()").await;
    let arguments = json!({"code": "while True: pass", "timeout_seconds": 1});
    scene.call(&id, "execute", arguments).await.refused();
    let listed = scene
        .call(&id, "list_files", json!({"path": "/tmp"}))
        .await
        .done();
    let left: Vec<_> = names(&listed)
        .filter(|name| name.starts_with("waggle_"))
        .collect();
    assert!(left.is_empty(), "left in /tmp: {left:?}");

    // State lives between calls in files, not in the interpreter.
    scene.output(&id, "open('kept', 'w').write('yes')").await;
    assert_eq!(
        scene.output(&id, "print(open('kept').read())").await,
        "yes\n"
    );

    scene.close().await;
}

fn names(listed: &Value) -> impl Iterator<Item = &str> {
    listed["files"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|file| file["name"].as_str())
}

/// Runs for ever in four processes of which one lost its parent, all of one group.
const FORKING_LOOP: &str = r#"
import os, sys, subprocess
print("started", flush=True)
print("warning", file=sys.stderr, flush=True)
for _ in range(2):
    subprocess.Popen(["sh", "-c", "while :; do :; done", "the-looping-child"])
if os.fork() == 0:
    subprocess.Popen(["sh", "-c", "while :; do sleep 1; done", "the-looping-child"])
    os._exit(0)
while True:
    pass
"#;

/// Counts the processes that run code or descend from [`FORKING_LOOP`]: itself at least.
const COUNT_RUNNING: &str = r#"
import glob
count = 0
for path in glob.glob("/proc/[0-9]*/cmdline"):
    try:
        command = open(path, "rb").read().split(b"\0")
    except OSError:
        continue
    if b"the-looping-child" in command or any(word.startswith(b"/tmp/waggle_") for word in command):
        count += 1
print(count)
"#;

#[tokio::test]
async fn endless_loop_ends_at_its_deadline_with_all_its_processes() {
    let _permit = machines(2).await;
    let scene = Scene::open().await;
    let id = scene.create("python").await;

    let arguments = json!({"code": FORKING_LOOP, "timeout_seconds": 20});
    let running = scene.call(&id, "execute", arguments);
    // Itself, the loop and its three children: what is asserted below could be seen.
    let watching = poll::until("the loop and its children run", async || {
        let seen = scene.output(&id, COUNT_RUNNING).await;
        (seen.trim() == "5").then_some(())
    });
    let (result, ()) = tokio::join!(running, watching);

    assert!(
        result.is_error,
        "a deadline is marked as an error: {}",
        result.structured
    );
    assert!(
        result.text.contains("20"),
        "which deadline: {}",
        result.text
    );
    assert!(
        result.text.contains("timeout_seconds"),
        "what to do next: {}",
        result.text
    );
    let partial = &result.structured;
    assert_eq!(partial["ended"], "deadline", "{partial}");
    assert_eq!(partial["exit_code"], 137);
    assert_eq!(partial["stdout"], "started\n");
    assert_eq!(partial["stderr"], "warning\n");
    let took = Duration::from_millis(partial["duration_ms"].as_u64().expect("milliseconds"));
    assert!(took >= Duration::from_secs(20), "{took:?}");
    assert!(took < Duration::from_secs(40), "{took:?}");

    // Nothing is left, and the environment is as good as before.
    assert_eq!(scene.output(&id, COUNT_RUNNING).await, "1\n");

    scene.close().await;
}

/// Output without end is cut, and said to be.
#[tokio::test]
async fn endless_output_is_cut_and_ends_at_the_deadline() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("shell").await;
    let arguments = json!({"code": "yes all work and no play", "timeout_seconds": 5});
    let result = scene.call(&id, "execute", arguments).await;
    assert_eq!(result.structured["ended"], "deadline", "{}", result.text);
    let left_out = result.structured["bytes_left_out"].as_u64();
    assert!(left_out.is_some_and(|bytes| bytes > 0), "{left_out:?}");
    let stdout = result.structured["stdout"].as_str().expect("text");
    let whole = "all work and no play\nall work";
    assert!(stdout.starts_with(whole), "the output's beginning");
    assert!(stdout.contains("bytes left out"), "the gap is marked");
    assert!(stdout.len() < 2 << 20, "{} bytes", stdout.len());
    assert_eq!(scene.output(&id, "echo still here").await, "still here\n");
    scene.close().await;
}

/// Whatever a program prints, its outcome arrives: bytes that are no text, and characters that JSON
/// writes in six.
#[tokio::test]
async fn odd_output_does_not_cost_the_outcome() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("python").await;
    let code = "import sys\nout = sys.stdout.buffer\nout.write(b'a\\xff\\xfeb\\0c\\r\\n')";
    assert_eq!(scene.output(&id, code).await, "a\u{fffd}\u{fffd}b\0c\r\n");
    for byte in ["\\0", "\\x1b", "\\xff", "\\\\", "\""] {
        let code = format!(
            "import sys\nfor stream in (sys.stdout, sys.stderr):\n    \
             stream.buffer.write(b'{byte}' * 200_000)\nsys.exit(3)"
        );
        let result = scene.execute(&id, &code).await;
        assert_eq!(result["exit_code"], 3, "{byte}");
        let left_out = result["bytes_left_out"].as_u64();
        assert!(left_out.is_some_and(|bytes| bytes > 0), "{left_out:?}");
    }
    scene.close().await;
}

#[tokio::test]
async fn language_may_differ_from_the_runtime() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("python").await;
    let arguments = json!({"code": "echo $((6 * 7))", "language": "shell"});
    assert_eq!(
        scene.call(&id, "execute", arguments).await.done()["stdout"],
        "42\n"
    );

    // The Python image has no Node: the answer names what is missing.
    let arguments = json!({"code": "console.log(1)", "language": "node"});
    let result = scene.call(&id, "execute", arguments).await;
    assert!(
        result.is_error || result.structured["exit_code"] != 0,
        "{}",
        result.structured
    );
    assert!(result.text.contains("node"), "{}", result.text);
    scene.close().await;
}

#[tokio::test]
async fn twenty_calls_in_a_row_each_give_their_own_answer() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("shell").await;
    for n in 0..20 {
        let code = format!("echo token-{n}; echo other-{n} >&2; exit {n}");
        let result = scene.execute(&id, &code).await;
        assert_eq!(result["stdout"], format!("token-{n}\n"));
        assert_eq!(result["stderr"], format!("other-{n}\n"));
        assert_eq!(result["exit_code"], n);
    }
    scene.close().await;
}

/// Eight at once in two environments; each waits for the other three of its environment, so they do
/// overlap.
#[tokio::test]
async fn eight_calls_at_once_each_give_their_own_answer() {
    let _permit = machines(2).await;
    let scene = Scene::open().await;
    let environments = [scene.create("shell").await, scene.create("shell").await];
    let call = async |n: usize| {
        let code = format!(
            "touch /tmp/running-{n}\n\
             while [ $(ls /tmp/running-* | wc -l) -lt 4 ]; do sleep 0.1; done\n\
             echo token-{n}; echo other-{n} >&2; exit {n}"
        );
        let result = scene.execute(&environments[n % 2], &code).await;
        assert_eq!(result["stdout"], format!("token-{n}\n"));
        assert_eq!(result["stderr"], format!("other-{n}\n"));
        assert_eq!(result["exit_code"], n);
    };
    tokio::join!(
        call(0),
        call(1),
        call(2),
        call(3),
        call(4),
        call(5),
        call(6),
        call(7)
    );
    scene.close().await;
}

/// Without a network pip runs and says so, its exit code is the result's, and the error says what to do.
#[tokio::test]
async fn install_packages_runs_the_installer_and_checks_the_names() {
    let _permit = machines(1).await;
    let scene = Scene::with(Settings::default().with("WAGGLE_NETWORK", "none")).await;
    let id = scene.create("python").await;
    for bad in [
        "--index-url=http://evil.example",
        "a;b",
        "$(id)",
        "six --pre",
        "",
        "  ",
    ] {
        let result = scene
            .call(&id, "install_packages", json!({"packages": bad}))
            .await;
        let text = result.refused();
        assert!(text.contains("package"), "{bad:?}: {text}");
    }
    for bad in [0, 301] {
        let arguments = json!({"packages": "six", "timeout_seconds": bad});
        let result = scene.call(&id, "install_packages", arguments).await;
        assert!(result.refused().contains("timeout_seconds"), "{bad}");
    }
    let result = scene
        .call(&id, "install_packages", json!({"packages": "six attrs"}))
        .await;
    let structured = &result.structured;
    assert!(result.is_error, "{}", result.text);
    assert!(result.text.contains("WAGGLE_NETWORK"), "{}", result.text);
    assert_eq!(structured["installed"], json!([]), "{structured}");
    assert!(
        structured["exit_code"].is_number(),
        "{structured} {}",
        result.text
    );
    assert_ne!(structured["exit_code"], 0, "{structured}");
    assert!(structured["stdout"].is_string(), "{structured}");
    assert!(
        structured["stderr"]
            .as_str()
            .is_some_and(|text| !text.is_empty()),
        "{structured}"
    );
    assert_eq!(scene.output(&id, "print('usable')").await, "usable\n");
    scene.close().await;
}
