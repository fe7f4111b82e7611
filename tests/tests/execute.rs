// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What `execute` offers beyond running code, in real machines: its options, deadlines and
//! cancellation that leave nothing running, output within a budget, keys against running twice.

#![allow(
    clippy::indexing_slicing,
    reason = "JSON gives null for what is absent; anything else that is missing fails the test"
)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use waggle_tests::{Client, Scene, Sdk, Settings, http, machines, poll};

/// Starts what tries to outlive its call: a child, a child in a session of its own, and one that has
/// daemonized by forking twice. All of them sleep for `seconds`, by which they are found.
fn daemons(seconds: u32) -> String {
    format!(
        "sleep {seconds} &\nsetsid sleep {seconds} &\n(setsid sh -c 'sleep {seconds} & sleep {seconds}' &)\n"
    )
}

/// Shell code that prints how many processes sleep for `seconds`.
fn count_sleepers(seconds: u32) -> String {
    format!(
        "{{ for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$f; echo; done }} 2>/dev/null \
         | grep -cx 'sleep {seconds} ' || true"
    )
}

/// How many processes of the guest sleep for `seconds`.
async fn sleepers(scene: &Scene, id: &str, seconds: u32) -> usize {
    let code = count_sleepers(seconds);
    let count = scene.output(id, &code).await;
    count.trim().parse().expect("a number")
}

/// stdin, environment, folder and user are the caller's; the rest is clean, and the same each time.
#[tokio::test]
async fn options_reach_the_program_and_nothing_else_does() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("python").await;

    let code = "import os, sys\n\
        print(sys.stdin.read(), os.environ['GREETING'], os.getcwd(), os.getuid(), sep='|')";
    let arguments = json!({
        "code": code, "stdin": "a line\nand \u{1f41d}", "env": {"GREETING": "moin\n=x", "LANG": "C"},
        "working_directory": "/usr/lib", "user": "root",
    });
    let result = scene.call(&id, "execute", arguments).await.done();
    assert_eq!(
        result["stdout"], "a line\nand \u{1f41d}|moin\n=x|/usr/lib|0\n",
        "{result}"
    );

    // Without options: no input, a clean environment, UTF-8, UTC, the sandbox's home. What leads to the
    // network has its own tests.
    let code = "import os, sys, time\n\
        network = ('_PROXY', '_CERT', '_CERTS', '_CERT_FILE', '_BUNDLE', '_CAINFO')\n\
        own = [n for n in sorted(os.environ) if not n.upper().endswith(network)]\n\
        print(sys.stdin.read() == '', own, os.environ['LANG'], time.tzname[0],\n\
        sys.stdout.encoding, os.getcwd(), os.getuid())";
    assert_eq!(
        scene.output(&id, code).await,
        "True ['HOME', 'LANG', 'LOGNAME', 'PATH', 'PYTHONUNBUFFERED', 'SHELL', 'TZ', 'USER'] \
         C.UTF-8 UTC utf-8 /home/sandbox 1000\n"
    );

    // The clock is the host's, and the random numbers are there at once.
    let code =
        "import os, time\nprint(time.time())\nassert len(os.getrandom(64, os.GRND_NONBLOCK)) == 64";
    let guest: f64 = scene
        .output(&id, code)
        .await
        .trim()
        .parse()
        .expect("a time");
    let host = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let apart = (host.as_secs_f64() - guest).abs();
    assert!(apart < 60.0, "the clocks are {apart} s apart");

    // An argument that cannot be is refused with what would do.
    for (arguments, word) in [
        (json!({"working_directory": "relative"}), "absolute"),
        (json!({"working_directory": "/nowhere"}), "/nowhere"),
        (json!({"env": {"A=B": "x"}}), "A=B"),
        (json!({"env": {"A": "x\u{0}"}}), "NUL"),
        (json!({"user": "nobody"}), "sandbox"),
        (json!({"max_output_bytes": 0}), "65536"),
        (json!({"max_output_bytes": 1_000_000}), "65536"),
        (json!({"idempotency_key": ""}), "idempotency_key"),
        (json!({"timeout_seconds": 100_000}), "300"),
        (
            json!({"timeout_seconds": 1_000_000, "background": true}),
            "604800",
        ),
    ] {
        let mut arguments = arguments;
        arguments["code"] = "print(1)".into();
        let text = scene.call(&id, "execute", arguments).await.refused();
        assert!(text.contains(word), "{text}");
    }
    scene.close().await;
}

/// At a deadline nothing survives, whatever it did to get away; the same when the caller goes away.
#[tokio::test]
async fn nothing_survives_a_deadline_or_a_closed_response() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("shell").await;

    let code = format!("{}echo begun; sleep 600", daemons(701));
    let arguments = json!({"code": code, "timeout_seconds": 20});
    let running = scene.call(&id, "execute", arguments);
    let watching = poll::until("all four sleep", async || {
        (sleepers(&scene, &id, 701).await == 4).then_some(())
    });
    let (result, ()) = tokio::join!(running, watching);
    assert_eq!(result.structured["ended"], "deadline", "{}", result.text);
    assert_eq!(result.structured["stdout"], "begun\n");
    assert_eq!(sleepers(&scene, &id, 701).await, 0);

    // A request that is dropped half way: in this revision the closed stream is the cancellation.
    let mut caller = http::Connection::open(scene.server.authority())
        .await
        .expect("a connection");
    let code = format!("{}sleep 600", daemons(702));
    let arguments = json!({"environment_id": id, "code": code, "timeout_seconds": 250});
    tokio::select! {
        answer = caller.call("execute", &arguments) => panic!("it ended: {answer:?}"),
        () = poll::until("all four sleep", async || {
            (sleepers(&scene, &id, 702).await == 4).then_some(())
        }) => {}
    }
    drop(caller);
    poll::until("the whole tree is gone", async || {
        (sleepers(&scene, &id, 702).await == 0).then_some(())
    })
    .await;

    // The same in the middle of a flood, of which much is still on its way; and again and again, since
    // a connection that is lost each time would soon be the last.
    let arguments = json!({"environment_id": id, "code": "exec yes flood", "timeout_seconds": 250});
    for _ in 0..20 {
        let mut caller = http::Connection::open(scene.server.authority())
            .await
            .expect("a connection");
        tokio::select! {
            answer = caller.call("execute", &arguments) => panic!("it ended: {answer:?}"),
            () = tokio::time::sleep(Duration::from_millis(300)) => {}
        }
    }
    poll::until("the floods are over", async || {
        let seen = scene.output(&id, "grep -lx yes /proc/[0-9]*/comm 2>/dev/null | wc -l");
        (seen.await == "0\n").then_some(())
    })
    .await;

    // A service that is started on purpose lives on after a normal end.
    scene
        .output(&id, "setsid sleep 703 >/dev/null 2>&1 & sleep 2")
        .await;
    assert_eq!(sleepers(&scene, &id, 703).await, 1);
    scene.close().await;
}

/// The budget is kept, the log has the rest, and a stream alone may have all of it.
#[tokio::test]
async fn long_output_is_cut_and_its_log_is_read() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("python").await;
    let code = "import sys\n\
        for n in range(20_000):\n    print('line', n, '\u{20ac}')\n\
        print('e' * 50, file=sys.stderr)";
    let whole: String = (0..20_000)
        .map(|n| format!("line {n} \u{20ac}\n"))
        .collect();

    let arguments = json!({"code": code, "max_output_bytes": 1000});
    let result = scene.call(&id, "execute", arguments).await.done();
    let stdout = result["stdout"].as_str().expect("text");
    let (head, rest) = stdout.split_once("\n[... ").expect("a mark");
    let (mark, tail) = rest.split_once(" ...]\n").expect("the mark's end");
    assert!(whole.starts_with(head) && whole.ends_with(tail), "{stdout}");
    assert!(head.len() + tail.len() <= 1000 - 51, "{}", stdout.len());
    let left_out = result["bytes_left_out"].as_u64().expect("a number");
    let shown = u64::try_from(head.len() + tail.len()).expect("small");
    assert_eq!(shown + left_out, u64::try_from(whole.len()).expect("small"));
    let log = result["stdout_log"].as_str().expect("a path");
    assert!(
        mark.contains(log) && mark.contains(&left_out.to_string()),
        "{mark}"
    );
    assert!(result["stderr_log"].is_null(), "stderr is all there");
    let read = json!({"path": log, "offset": head.len(), "length": 100});
    let read = scene.call(&id, "read_file", read).await.done();
    assert_eq!(read["size"], whole.len());
    let there = &whole.as_bytes()[head.len()..head.len() + 100];
    let there = String::from_utf8_lossy(there);
    let there = there.trim_end_matches('\u{fffd}');
    assert_eq!(read["content"].as_str(), Some(there));

    // The default is fit for a model: some 8,000 tokens.
    let result = scene.execute(&id, code).await;
    let stdout = result["stdout"].as_str().expect("text");
    assert!((31_000..33_000).contains(&stdout.len()), "{}", stdout.len());
    // Short output has no log, and bytes that are no text do not hide the rest.
    let code = "import sys\nsys.stdout.buffer.write(b'a\\xffb')";
    let result = scene.execute(&id, code).await;
    assert_eq!(result["stdout"], "a\u{fffd}b");
    assert!(result["stdout_log"].is_null() && result["bytes_left_out"].is_null());
    scene.close().await;
}

/// A gibibyte of output costs the server no more than a fixed amount of memory, and other calls go on.
#[tokio::test]
async fn a_gibibyte_of_output_stays_in_bounds() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("shell").await;
    scene.output(&id, "echo warm").await;
    let before = scene.server.resident_kib();

    let arguments = json!({"code": "head -c 1073741824 /dev/zero", "timeout_seconds": 300});
    let printing = scene.call(&id, "execute", arguments);
    let others = async {
        let mut calls = 0;
        for n in 0..10 {
            assert_eq!(
                scene.output(&id, &format!("echo {n}")).await,
                format!("{n}\n")
            );
            calls += 1;
        }
        calls
    };
    let (result, calls) = tokio::join!(printing, others);
    assert_eq!(calls, 10);
    let result = result.done();
    assert_eq!(result["ended"], "exited", "{result}");
    let left_out = result["bytes_left_out"].as_u64().expect("a number");
    assert_eq!(left_out, (1 << 30) - 32_000);
    // Two captures and some frames; the rest is the allocator's.
    let grown = scene.server.peak_resident_kib().saturating_sub(before);
    assert!(grown < 32 * 1024, "the server has grown by {grown} KiB");
    scene.close().await;
}

/// A call repeated with its key gets the first run's result: side by side, afterwards, and after its
/// connection was lost. The program runs once.
#[tokio::test]
async fn a_key_never_runs_twice() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("shell").await;
    let runs = async || scene.output(&id, "wc -l < /tmp/runs").await;
    let once = json!({
        "environment_id": id, "idempotency_key": "deploy-1",
        "code": "echo run >> /tmp/runs; sleep 3; echo $$; exit 4",
    });

    let mut lost = http::Connection::open(scene.server.authority())
        .await
        .expect("a connection");
    tokio::select! {
        answer = lost.call("execute", &once) => panic!("too fast: {answer:?}"),
        _ = poll::until("it runs", async || {
            let seen = scene.execute(&id, "cat /tmp/runs").await;
            (seen["stdout"] == "run\n").then_some(())
        }) => {}
    }
    drop(lost);
    let (one, two) = tokio::join!(
        scene.client.call("execute", once.clone()),
        scene.client.call("execute", once.clone())
    );
    let (one, two) = (one.done(), two.done());
    assert_eq!(one["exit_code"], 4, "{one}");
    assert_eq!(one["stdout"], two["stdout"]);
    let late = scene.client.call("execute", once.clone()).await.done();
    assert_eq!(late["stdout"], one["stdout"]);
    assert_eq!(runs().await, "1\n");

    // The same key for something else is a mistake; another key is another run.
    let mut other = once.clone();
    other["code"] = "echo other".into();
    let text = scene.client.call("execute", other.clone()).await.refused();
    assert!(text.contains("deploy-1"), "{text}");
    other["idempotency_key"] = "deploy-2".into();
    let result = scene.client.call("execute", other).await.done();
    assert_eq!(result["stdout"], "other\n");

    // What could not begin may be tried again.
    let wrong = json!({
        "environment_id": id, "idempotency_key": "deploy-3", "code": "echo", "working_directory": "/not-yet",
    });
    let text = scene.client.call("execute", wrong.clone()).await.refused();
    assert!(text.contains("/not-yet"), "{text}");
    let arguments = json!({"code": "mkdir /not-yet", "user": "root"});
    scene.call(&id, "execute", arguments).await.done();
    assert_eq!(
        scene.client.call("execute", wrong).await.done()["exit_code"],
        0
    );
    scene.close().await;
}

/// Sixty-four at once, each with its own answer; no zombie is left.
#[tokio::test]
async fn sixty_four_programs_run_at_once() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("shell").await;
    let run = async |n: usize| {
        // Each waits for all others, so they do overlap.
        let code = format!(
            "touch /tmp/here-{n}; while [ $(ls /tmp/here-* | wc -l) -lt 64 ]; do sleep 1; done; echo {n}"
        );
        let arguments = json!({"code": code, "timeout_seconds": 200});
        let result = scene.call(&id, "execute", arguments).await.done();
        assert_eq!(result["stdout"], format!("{n}\n"), "{result}");
    };
    futures_util::future::join_all((0..64).map(run)).await;
    let zombies = scene.output(
        &id,
        "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l",
    );
    assert_eq!(zombies.await, "0\n");
    scene.close().await;
}

/// Why a program ended, where neither it nor its deadline is the reason.
#[tokio::test]
async fn other_ends_are_told_apart() {
    let _permit = machines(1).await;
    let scene = Scene::with(Settings::default().with("WAGGLE_MAX_OUTPUT_MB", "1")).await;
    let id = scene.create("python").await;

    let code = json!({"code": "while True: print('x' * 1000)", "timeout_seconds": 200});
    let result = scene.call(&id, "execute", code).await;
    assert_eq!(
        result.structured["ended"], "output_limit",
        "{}",
        result.text
    );
    assert!(
        result.is_error
            && result.structured["stdout"]
                .as_str()
                .is_some_and(|out| out.starts_with("xxx"))
    );

    let code = "print('so far')\nhoard = []\nwhile True: hoard.append(b'x' * 10_000_000)";
    let code = json!({"code": code, "timeout_seconds": 200});
    let result = scene.call(&id, "execute", code).await;
    assert_eq!(
        result.structured["ended"], "out_of_memory",
        "{}",
        result.text
    );
    assert_eq!(result.structured["stdout"], "so far\n");

    // A cancelled call has no answer; one with a key, made again, tells.
    let client = Client::http(Sdk::V1, &scene.server.url()).await;
    let arguments = json!({
        "environment_id": id, "idempotency_key": "k", "timeout_seconds": 200,
        "code": "import time\nprint('begun')\nopen('/tmp/begun', 'w')\ntime.sleep(150)",
    });
    let limit = Duration::from_secs(200);
    let call = client
        .begin("execute", arguments.clone(), limit, false)
        .await;
    poll::until("it runs", async || {
        let seen = scene
            .output(&id, "import os\nprint(os.listdir('/tmp'))")
            .await;
        seen.contains("begun").then_some(())
    })
    .await;
    client.cancel(&call).await;
    let result = client.call("execute", arguments).await;
    assert!(result.is_error, "{}", result.structured);
    assert_eq!(result.structured["ended"], "cancelled");
    assert_eq!(result.structured["stdout"], "begun\n");
    client.close().await;
    scene.close().await;
}

/// An agent that does not end a program at its deadline, because root code has stopped it, costs its
/// machine: the caller is answered all the same.
#[tokio::test]
async fn an_agent_that_lets_a_deadline_pass_costs_its_machine() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("shell").await;
    let code = "echo so far; kill -STOP $(grep -lx waggle-guest /proc/[0-9]*/comm | cut -d/ -f3); sleep 600";
    let arguments = json!({"code": code, "user": "root", "timeout_seconds": 3});
    let result = scene.call(&id, "execute", arguments).await;
    assert!(
        result.is_error && result.text.contains("create_environment"),
        "{}",
        result.text
    );
    assert_eq!(result.structured["ended"], "machine_lost");
    scene.server.until_childless().await;
    scene.destroy(&id).await;
    scene.close().await;
}

/// A machine that dies takes the program along, not what it had printed.
#[tokio::test]
async fn a_lost_machine_leaves_the_output_so_far() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("shell").await;
    let vmm = scene.server.vmm_of(&id);
    let arguments =
        json!({"code": "echo so far; touch /tmp/begun; sleep 200", "timeout_seconds": 250});
    let running = scene.call(&id, "execute", arguments);
    let killing = async {
        poll::until("it runs", async || {
            let seen = scene.execute(&id, "ls /tmp").await;
            seen["stdout"].as_str()?.contains("begun").then_some(())
        })
        .await;
        vmm.signal(Signal::SIGKILL);
    };
    let (result, ()) = tokio::join!(running, killing);
    assert!(
        result.is_error && result.text.contains("create_environment"),
        "{}",
        result.text
    );
    assert_eq!(result.structured["ended"], "machine_lost");
    assert_eq!(result.structured["stdout"], "so far\n");
    assert!(result.structured["exit_code"].is_null());
    scene.close().await;
}

/// The length of a field of text.
fn length(value: &Value) -> usize {
    value.as_str().expect("text").len()
}

/// A program in the background is followed, fed, waited for and ended by whoever knows its id.
#[tokio::test]
async fn background_programs_are_followed_to_their_end() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("python").await;
    let process = async |arguments: Value| scene.call(&id, "process", arguments).await;

    // A dialogue over its standard streams.
    let code = "import sys\nfor line in sys.stdin:\n    print('heard ' + line.strip() + '\\n', end='')\nprint('bye', file=sys.stderr)\nsys.exit(5)";
    let started = json!({"code": code, "background": true, "stdin": "first\n"});
    let started = scene.call(&id, "execute", started).await.done();
    let echo = started["process_id"].as_str().expect("an id").to_owned();
    assert!(
        started["ended"].is_null() && started["exit_code"].is_null(),
        "{started}"
    );
    let read = json!({"action": "read", "process_id": echo, "timeout_seconds": 60});
    let first = process(read.clone()).await.done();
    assert_eq!(first["stdout"], "heard first\n", "{first}");
    assert_eq!(first["status"], "running");
    let again = process(json!({"action": "read", "process_id": echo, "cursor": 0}))
        .await
        .done();
    assert_eq!(
        again["stdout"], "heard first\n",
        "its answer may have been lost"
    );
    process(json!({"action": "write", "process_id": echo, "input": "second\n"}))
        .await
        .done();
    let mut next = read;
    next["cursor"] = first["cursor"].clone();
    let second = process(next).await.done();
    assert_eq!(second["stdout"], "heard second\n", "{second}");
    process(json!({"action": "write", "process_id": echo, "close_input": true}))
        .await
        .done();
    let wait = json!({
        "action": "wait", "process_id": echo, "timeout_seconds": 60, "cursor": second["cursor"],
    });
    let end = process(wait).await.done();
    assert_eq!(
        (&end["status"], &end["exit_code"]),
        (&json!("ended"), &json!(5)),
        "{end}"
    );
    assert_eq!(
        (&end["stdout"], &end["stderr"]),
        (&json!(""), &json!("bye\n"))
    );
    let text = process(json!({"action": "write", "process_id": echo, "input": "x"}))
        .await
        .refused();
    assert!(text.contains(&echo), "{text}");

    // Signals reach it: one it handles, and one that takes its whole tree.
    let code = "import signal, subprocess, sys, time\n\
        signal.signal(signal.SIGUSR1, lambda *_: print('usr1\\n', end=''))\n\
        subprocess.Popen(['setsid', 'sleep', '711'])\nprint('ready\\n', end='')\nwhile True: time.sleep(1)";
    let started = json!({"code": code, "background": true});
    let started = scene.call(&id, "execute", started).await.done();
    let service = started["process_id"].as_str().expect("an id").to_owned();
    let read = json!({"action": "read", "process_id": service, "timeout_seconds": 60});
    let ready = process(read.clone()).await.done();
    assert_eq!(ready["stdout"], "ready\n");
    process(json!({"action": "signal", "process_id": service, "signal": "USR1"}))
        .await
        .done();
    let mut next = read;
    next["cursor"] = ready["cursor"].clone();
    assert_eq!(process(next).await.done()["stdout"], "usr1\n");
    process(json!({"action": "signal", "process_id": service, "signal": "KILL"}))
        .await
        .done();
    let wait = json!({"action": "wait", "process_id": service, "timeout_seconds": 60});
    let end = process(wait).await.done();
    assert_eq!(
        (&end["ended"], &end["signal"]),
        (&json!("signal"), &json!(9)),
        "{end}"
    );
    let left = json!({"code": count_sleepers(711), "language": "shell"});
    assert_eq!(
        scene.call(&id, "execute", left).await.done()["stdout"],
        "0\n"
    );

    // More than the spool holds: the newest is there, and the gap is told.
    let code = "import sys\nfor n in range(100_000): print('line', n)";
    let started = scene
        .call(&id, "execute", json!({"code": code, "background": true}))
        .await
        .done();
    let loud = started["process_id"].as_str().expect("an id").to_owned();
    let wait = json!({"action": "wait", "process_id": loud, "timeout_seconds": 120});
    let end = process(wait).await.done();
    assert_eq!(end["status"], "ended", "{}", end["status"]);
    assert!(
        end["stdout_log"]
            .as_str()
            .is_some_and(|path| path.starts_with("/tmp/"))
    );
    let (mut cursor, mut read, mut last) = (json!(0), 0, String::new());
    let mut lost = 0;
    loop {
        let part = json!({"action": "read", "process_id": loud, "cursor": cursor});
        let part = process(part).await.done();
        lost += part["bytes_lost"].as_u64().unwrap_or_default();
        read += length(&part["stdout"]);
        last = part["stdout"]
            .as_str()
            .filter(|text| !text.is_empty())
            .unwrap_or(&last)
            .to_owned();
        cursor = part["cursor"].clone();
        if part["more"] == false {
            break;
        }
    }
    let all: usize = (0..100_000).map(|n: i32| format!("line {n}\n").len()).sum();
    assert_eq!(
        u64::try_from(read).expect("small") + lost,
        u64::try_from(all).expect("small")
    );
    assert!(last.ends_with("line 99999\n"));

    // All three are listed, and unknown ones are told apart.
    let list = process(json!({"action": "list"})).await.done();
    assert_eq!(
        list["processes"].as_array().map(Vec::len),
        Some(3),
        "{list}"
    );
    for (arguments, word) in [
        (json!({"action": "read"}), "process_id"),
        (json!({"action": "read", "process_id": "17"}), "proc-1"),
        (json!({"action": "read", "process_id": "proc-99"}), "list"),
        (json!({"action": "signal", "process_id": echo}), "signal"),
        (
            json!({"action": "signal", "process_id": echo, "signal": "TERM"}),
            "ended",
        ),
        (json!({"action": "write", "process_id": echo}), "input"),
        (json!({"action": "stop", "process_id": echo}), "action"),
    ] {
        let text = process(arguments).await.refused();
        assert!(text.contains(word), "{text}");
    }

    // One that lives on does not keep its environment from ending.
    let forever = json!({"code": "while True: pass", "background": true});
    scene.call(&id, "execute", forever).await.done();
    scene.destroy(&id).await;
    scene.close().await;
}

/// A background program has a deadline only if it was given one.
#[tokio::test]
async fn a_background_deadline_holds() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("shell").await;
    let arguments =
        json!({"code": "setsid sleep 721 & sleep 722", "background": true, "timeout_seconds": 2});
    let started = scene.call(&id, "execute", arguments).await.done();
    let wait =
        json!({"action": "wait", "process_id": started["process_id"], "timeout_seconds": 60});
    let end = scene.call(&id, "process", wait).await.done();
    assert_eq!(end["ended"], "deadline", "{end}");
    let took = Duration::from_millis(end["duration_ms"].as_u64().expect("milliseconds"));
    assert!(took >= Duration::from_secs(2), "{took:?}");
    assert_eq!(sleepers(&scene, &id, 721).await, 0);
    scene.close().await;
}
