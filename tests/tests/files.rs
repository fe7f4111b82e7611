// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Files of real machines: any bytes in, the same bytes out; parts of files; folders whose names
//! would break a script.

#![allow(
    clippy::indexing_slicing,
    reason = "JSON gives null for what is absent; anything else that is missing fails the test"
)]

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use waggle_tests::{Scene, machines};

/// Every byte value, in every order of two neighbours that matters, and no valid UTF-8.
fn all_bytes(length: usize) -> Vec<u8> {
    let bytes = (0..length).map(|n| n.wrapping_mul(167).wrapping_add(n >> 8).to_le_bytes()[0]);
    [0, 0xff, 0xfe, b'\n', b'\r', b'\n', 0x80]
        .into_iter()
        .chain(bytes)
        .collect()
}

#[tokio::test]
async fn any_bytes_go_in_and_come_out_unchanged() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("python").await;

    // Larger than any frame and any pipe's buffer; parents are created.
    let bytes = all_bytes(700_001);
    let path = "/home/sandbox/new/deep/folder/blob.bin";
    let arguments = json!({"path": path, "content": STANDARD.encode(&bytes), "encoding": "base64"});
    let written = scene.call(&id, "write_file", arguments).await.done();
    assert_eq!(
        written,
        json!({"status": "written", "path": path, "bytes_written": bytes.len()})
    );

    // The guest's own view, by an independent road.
    let code = format!(
        "data = open({path:?}, 'rb').read()\n\
         body = bytes((n * 167 + (n >> 8)) & 255 for n in range(700001))\n\
         print(data == bytes([0, 255, 254, 10, 13, 10, 128]) + body)"
    );
    assert_eq!(scene.output(&id, &code).await, "True\n");

    // It is more than one answer carries, and the answer says how to go on.
    let refused = scene.call(&id, "read_file", json!({"path": path})).await;
    assert!(refused.is_error, "{}", refused.text);
    assert!(refused.text.contains("offset"), "{}", refused.text);

    // More than a client takes at once: the error says how to go on, and doing so gives it all. It
    // is no UTF-8, so it comes in base64 unasked.
    let text = scene
        .call(&id, "read_file", json!({"path": path}))
        .await
        .refused();
    assert!(text.contains("offset") && text.contains("length"), "{text}");
    let mut back = Vec::new();
    while back.len() < bytes.len() {
        let arguments = json!({"path": path, "offset": back.len(), "length": 200_000});
        let read = scene.call(&id, "read_file", arguments).await.done();
        assert_eq!(read["encoding"], "base64");
        assert_eq!(read["size"], bytes.len());
        let part = STANDARD.decode(read["content"].as_str().expect("text"));
        let part = part.expect("base64");
        assert!(!part.is_empty(), "no progress at {}", back.len());
        back.extend(part);
    }
    assert!(back == bytes, "the bytes differ");

    // What a program writes, a client reads.
    scene
        .output(&id, "open('/tmp/raw', 'wb').write(bytes(range(256)) * 2)")
        .await;
    let arguments = json!({"path": "/tmp/raw", "encoding": "base64"});
    let read = scene.call(&id, "read_file", arguments).await.done();
    let content = STANDARD
        .decode(read["content"].as_str().expect("text"))
        .expect("base64");
    assert_eq!(content, (0..=255).chain(0..=255).collect::<Vec<u8>>());

    scene.close().await;
}

#[tokio::test]
async fn text_parts_and_replacement() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("python").await;
    let path = "/home/sandbox/ein Name mit 'Zeichen' & 🐝.txt";
    let read = async |arguments: Value| {
        let result = scene.call(&id, "read_file", arguments).await;
        (result.text.clone(), result.done())
    };

    // Text comes back as text, in the structured content and as the text itself. Line ends, NUL and
    // a missing newline at the end stay.
    let text = "Grüße\r\nNUL: \u{0}, 世界\ttab\n\nno newline at the end";
    let arguments = json!({"path": path, "content": text});
    let written = scene.call(&id, "write_file", arguments).await.done();
    assert_eq!(written["bytes_written"], text.len());
    let (plain, structured) = read(json!({"path": path})).await;
    let size = text.len();
    let expected = json!({
        "content": text, "encoding": "utf-8", "path": path, "size": size, "bytes_read": size,
    });
    assert_eq!(structured, expected);
    assert_eq!(plain, text);

    // A part, also past the end; `size` is that of the whole file.
    let (_, part) = read(json!({"path": path, "offset": 9, "length": 4})).await;
    assert_eq!(part["content"], "NUL:");
    assert_eq!(part["bytes_read"], 4);
    assert_eq!(part["size"], size);
    let (_, part) = read(json!({"path": path, "offset": size - 3, "length": 100})).await;
    assert_eq!(part["content"], "end");
    let (_, part) = read(json!({"path": path, "offset": size + 5})).await;
    assert_eq!(part["content"], "");
    // A part ends before a character that its end would cut, and says so; one that begins inside a
    // character is not text.
    let (_, part) = read(json!({"path": path, "offset": 0, "length": 3})).await;
    assert_eq!(part["content"], "Gr");
    assert_eq!(part["bytes_read"], 2);
    let (_, part) = read(json!({"path": path, "offset": 3, "length": 3})).await;
    assert_eq!(part["encoding"], "base64");
    assert_eq!(part["content"], STANDARD.encode(&text.as_bytes()[3..6]));
    assert_eq!(part["bytes_read"], 3);
    // Text may be asked for in base64.
    let (_, part) = read(json!({"path": path, "encoding": "base64"})).await;
    assert_eq!(part["content"], STANDARD.encode(text));

    // A shorter content replaces the longer as a whole, and keeps the mode.
    scene
        .output(&id, &format!("import os; os.chmod({path:?}, 0o750)"))
        .await;
    scene
        .call(&id, "write_file", json!({"path": path, "content": "ab"}))
        .await
        .done();
    let code = format!(
        "import os; s = os.stat({path:?}); print(oct(s.st_mode & 0o7777), s.st_size, s.st_uid)"
    );
    assert_eq!(scene.output(&id, &code).await, "0o750 2 1000\n");

    // Nothing is a content, too.
    let arguments = json!({"path": "/home/sandbox/empty", "content": ""});
    assert_eq!(
        scene.call(&id, "write_file", arguments).await.done()["bytes_written"],
        0
    );
    let (_, empty) = read(json!({"path": "/home/sandbox/empty"})).await;
    assert_eq!(empty["content"], "");
    assert_eq!(empty["size"], 0);

    scene.close().await;
}

/// A file that is more than one call returns is refused, as often as anybody asks: there are 128
/// connections, and none may be lost to an answer that was too long.
#[tokio::test]
async fn refused_reads_cost_no_connection() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("shell").await;
    scene
        .output(&id, "head -c 2000000 /dev/zero > /tmp/big")
        .await;
    for _ in 0..140 {
        let text = scene
            .call(&id, "read_file", json!({"path": "/tmp/big"}))
            .await
            .refused();
        assert!(text.contains("offset"), "{text}");
    }
    let part = json!({"path": "/tmp/big", "offset": 1_999_990});
    let part = scene.call(&id, "read_file", part).await.done();
    assert_eq!(part["bytes_read"], 10);
    scene.close().await;
}

/// Names that hold a newline, quotes, a leading dash, bytes that are no UTF-8; ten levels deep.
const MAKE_TREE: &str = r#"
import os
os.chdir("/home/sandbox")
os.mkdir("tree")
names = [b"plain.txt", b"new\nline", b"tab\tand 'quotes' \"here\"", b"-rf", b" leading and trailing ",
         b"back\\slash", b"\xff\xfe.bin", "Gr\u00fc\u00dfe \U0001f41d".encode(), b"%s$(id)`id`"]
for size, name in enumerate(names):
    with open(b"tree/" + name, "wb") as f:
        f.write(b"x" * size)
    os.chmod(b"tree/" + name, 0o640)
    os.utime(b"tree/" + name, (1000000000, 1000000000))
path = b"tree"
for level in range(10):
    path += b"/level\n%d" % level
    os.mkdir(path)
open(path + b"/bottom", "wb").write(b"12345")
os.mkdir("tree/empty")
os.symlink("/etc/passwd", "tree/link")
os.chmod("tree/empty", 0o1777)
"#;

fn by_name(listed: &Value) -> BTreeMap<String, Value> {
    let files = listed["files"].as_array().expect("a list");
    assert_eq!(listed["count"], files.len());
    let found: BTreeMap<_, _> = files
        .iter()
        .map(|file| {
            (
                file["name"].as_str().expect("a name").to_owned(),
                file.clone(),
            )
        })
        .collect();
    assert_eq!(found.len(), files.len(), "no name twice: {listed}");
    found
}

#[tokio::test]
async fn lists_any_name_at_any_depth() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("python").await;
    scene.output(&id, MAKE_TREE).await;

    let tree = "/home/sandbox/tree";
    let listed = scene
        .call(&id, "list_files", json!({"path": tree}))
        .await
        .done();
    assert_eq!(listed["path"], tree);
    assert_eq!(listed["truncated"], false);
    let files = by_name(&listed);
    let names = [
        "plain.txt",
        "new\nline",
        "tab\tand 'quotes' \"here\"",
        "-rf",
        " leading and trailing ",
        "back\\slash",
        "\u{fffd}\u{fffd}.bin",
        "Grüße 🐝",
        "%s$(id)`id`",
    ];
    assert_eq!(files.len(), names.len() + 3, "{:?}", files.keys());
    for (size, name) in names.iter().enumerate() {
        let file = files
            .get(*name)
            .unwrap_or_else(|| panic!("{name:?} among {:?}", files.keys()));
        assert_eq!(file["size"], size, "{file}");
        assert_eq!(file["is_dir"], false, "{file}");
        assert_eq!(file["mode"], "0640", "{file}");
        let modified: jiff::Timestamp = file["modified"]
            .as_str()
            .expect("a time")
            .parse()
            .expect("RFC 3339");
        assert_eq!(modified.as_second(), 1_000_000_000, "{file}");
        let raw = name
            .starts_with('\u{fffd}')
            .then(|| STANDARD.encode(b"\xff\xfe.bin"));
        assert_eq!(
            file.get("name_base64").and_then(Value::as_str),
            raw.as_deref(),
            "{file}"
        );
    }
    assert_eq!(files["empty"]["is_dir"], true);
    assert_eq!(files["empty"]["mode"], "1777");
    assert_eq!(files["level\n0"]["is_dir"], true);
    assert_eq!(files["link"]["is_dir"], false, "a link is not followed");

    // Depth counts levels; names are relative to the listed folder.
    let arguments = json!({"path": tree, "depth": 2});
    let two = by_name(&scene.call(&id, "list_files", arguments).await.done());
    assert_eq!(two.len(), files.len() + 1);
    assert!(two.contains_key("level\n0/level\n1"), "{:?}", two.keys());
    let arguments = json!({"path": tree, "depth": 12});
    let all = by_name(&scene.call(&id, "list_files", arguments).await.done());
    assert_eq!(all.len(), files.len() + 10);
    let levels: Vec<_> = (0..10).map(|level| format!("level\n{level}")).collect();
    let bottom = format!("{}/bottom", levels.join("/"));
    assert_eq!(all[&bottom]["size"], 5);

    // Without a path it is the user's home.
    let home = scene.call(&id, "list_files", json!({})).await.done();
    assert_eq!(home["path"], "/home/sandbox");
    assert!(by_name(&home).contains_key("tree"), "{home}");

    // An empty folder is an empty list, not an error.
    let arguments = json!({"path": "/home/sandbox/tree/empty"});
    let empty = scene.call(&id, "list_files", arguments).await.done();
    assert_eq!(empty["files"], json!([]));
    assert_eq!(empty["count"], 0);

    scene.close().await;
}

/// A folder that is too large for one answer is cut, and said to be; there is no smaller question
/// that a client could ask instead.
#[tokio::test]
async fn lists_many_files() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("python").await;
    let code = "import os\nos.mkdir('/tmp/many')\nos.mkdir('/tmp/long')\n\
                for n in range(3000):\n    \
                open(f'/tmp/many/{n:04}-many', 'w').close()\n    \
                open(f'/tmp/long/{n:04}-' + '\\x01\"' * 120, 'w').close()";
    scene.output(&id, code).await;
    for (path, end) in [("/tmp/many", "-many"), ("/tmp/long", "\u{1}\"\u{1}\"")] {
        let arguments = json!({"path": path});
        let listed = scene.call(&id, "list_files", arguments).await.done();
        let found = by_name(&listed);
        assert_eq!(listed["truncated"], found.len() < 3000);
        assert!(found.len() >= 100, "{path} is cut to {}", found.len());
        assert!(found.keys().all(|name| name.ends_with(end)), "whole names");
    }
    scene.close().await;
}

#[tokio::test]
async fn edits_replace_exactly_what_is_meant() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("python").await;
    let path = "/home/sandbox/app.py";
    let write = async |arguments: Value| scene.call(&id, "write_file", arguments).await.done();
    let edit = async |mut arguments: Value| {
        arguments["path"] = path.into();
        scene.call(&id, "edit_file", arguments).await
    };
    let content = async || {
        let arguments = json!({"path": path});
        scene.call(&id, "read_file", arguments).await.text
    };

    write(json!({"path": path, "content": "a = 1\nb = 1\r\nb = 1\r\n", "mode": "0750"})).await;
    let edited = edit(json!({"old_text": "a = 1\nb", "new_text": "a = 2\nc"})).await;
    assert!(edited.text.contains("1 place"), "{}", edited.text);
    let edited = edited.done();
    assert_eq!(edited["replacements"], 1);
    let text = "a = 2\nc = 1\r\nb = 1\r\n";
    assert_eq!(content().await, text);
    assert_eq!(edited["size"], text.len());
    let code = format!(
        "import hashlib, os; print(hashlib.sha256(open({path:?}, 'rb').read()).hexdigest(), \
         oct(os.stat({path:?}).st_mode & 0o7777))"
    );
    let seen = scene.output(&id, &code).await;
    let hash = edited["sha256"].as_str().expect("a hash").to_owned();
    assert_eq!(seen, format!("{hash} 0o750\n"));

    // Not once: nothing is changed, and the error says how often it occurs and what to do.
    let told = edit(json!({"old_text": "= 1\r\n", "new_text": "= 3"}))
        .await
        .refused();
    assert!(told.contains('2') && told.contains("replace_all"), "{told}");
    let told = edit(json!({"old_text": "= 9", "new_text": ""}))
        .await
        .refused();
    assert!(told.contains("read_file"), "{told}");
    for arguments in [
        json!({"old_text": "", "new_text": "x"}),
        json!({"old_text": "a", "new_text": "a"}),
        json!({"old_text": "a", "new_text": "b", "expected_replacements": 0}),
        json!({"old_text": "a", "new_text": "b", "expected_replacements": 1, "replace_all": true}),
        json!({"old_text": "a", "new_text": "b", "sha256": "abc"}),
    ] {
        edit(arguments).await.refused();
    }
    assert_eq!(content().await, text);

    // As often as is said, or however often.
    let arguments = json!({"old_text": " = 1", "new_text": "=1", "expected_replacements": 2});
    assert_eq!(edit(arguments).await.done()["replacements"], 2);
    let arguments = json!({"old_text": "=", "new_text": ":=", "replace_all": true});
    assert_eq!(edit(arguments).await.done()["replacements"], 3);
    assert_eq!(content().await, "a := 2\nc:=1\r\nb:=1\r\n");

    // Only if nobody else has changed it.
    let told = edit(json!({"old_text": "a", "new_text": "x", "sha256": hash}))
        .await
        .refused();
    assert!(told.contains("read_file"), "{told}");
    assert!(content().await.starts_with("a :="));

    // What is no file to edit.
    for (path, word) in [
        ("/home/sandbox", "list_files"),
        ("/home/sandbox/none", "list_files"),
        ("/etc/passwd", "permission denied"),
        ("/dev/null", "execute"),
    ] {
        let arguments = json!({
            "path": path, "old_text": "root", "new_text": "toor", "replace_all": true,
        });
        let told = scene.call(&id, "edit_file", arguments).await.refused();
        assert!(told.contains(word), "{path}: {told}");
    }
    scene.close().await;
}

#[tokio::test]
async fn appending_and_reading_by_lines() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("python").await;
    let path = "/home/sandbox/new/log.txt";
    for line in 1..=5 {
        let content = format!("line {line}\n");
        let arguments = json!({"path": path, "content": content, "append": true, "mode": "600"});
        let written = scene.call(&id, "write_file", arguments).await.done();
        assert_eq!(written["status"], "appended");
        assert_eq!(written["bytes_written"], 7);
    }
    let read = async |mut arguments: Value| {
        arguments["path"] = path.into();
        scene.call(&id, "read_file", arguments).await.done()
    };
    let part = read(json!({"start_line": 2, "line_count": 2})).await;
    assert_eq!(part["content"], "line 2\nline 3\n");
    assert_eq!(
        (&part["start_line"], &part["lines"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(
        (&part["next_offset"], &part["at_end"]),
        (&json!(21), &json!(false))
    );
    let rest = read(json!({"start_line": 4})).await;
    assert_eq!(rest["content"], "line 4\nline 5\n");
    assert_eq!(rest["at_end"], true);
    let none = read(json!({"start_line": 9})).await;
    assert_eq!((&none["content"], &none["lines"]), (&json!(""), &json!(0)));
    let first = read(json!({"line_count": 1})).await;
    assert_eq!(first["content"], "line 1\n");
    let both = json!({"path": path, "start_line": 1, "offset": 0});
    let told = scene.call(&id, "read_file", both).await.refused();
    assert!(
        told.contains("start_line") && told.contains("offset"),
        "{told}"
    );
    let mode = scene
        .output(
            &id,
            &format!("import os; print(oct(os.stat({path:?}).st_mode & 0o777))"),
        )
        .await;
    assert_eq!(mode, "0o600\n");

    // One line that is longer than an answer: it goes on by bytes.
    let code = format!("open({path:?}, 'w').write('\u{20ac}' * 200000 + '\\nlast\\n')");
    scene.output(&id, &code).await;
    let long = read(json!({"start_line": 1, "line_count": 1})).await;
    assert_eq!(long["encoding"], "utf-8");
    let next = long["next_offset"].as_u64().expect("an offset");
    assert!(
        (200_000..=262_144).contains(&next) && next % 3 == 0,
        "{next}"
    );
    assert_eq!(read(json!({"start_line": 2})).await["content"], "last\n");
    scene.close().await;
}

#[tokio::test]
async fn finds_files_and_lines() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("python").await;
    let code = "import os\n\
                os.makedirs('p/src/deep'); os.makedirs('p/target'); os.mkdir('p/.git')\n\
                open('p/src/a.py', 'w').write('import os\\n\\ndef run(x):\\n    return x\\n')\n\
                open('p/src/deep/b.py', 'w').write('def Run(y): pass\\n')\n\
                open('p/src/c.txt', 'wb').write(b'def run \\xff tail\\n')\n\
                open('p/target/d.py', 'w').write('def run(): generated\\n')\n\
                open('p/.gitignore', 'w').write('target/\\n')\n\
                open('p/long.txt', 'w').write('x' * 100000 + 'needle\\n')\n\
                open('p/many.txt', 'w').write('match\\n' * 5000)";
    scene.output(&id, code).await;
    let names = async |mut arguments: Value| {
        arguments["path"] = "/home/sandbox/p".into();
        let listed = scene.call(&id, "list_files", arguments).await.done();
        by_name(&listed).into_keys().collect::<Vec<_>>()
    };
    let all = ["src/a.py", "src/deep/b.py", "target/d.py"];
    assert_eq!(names(json!({"glob": "*.py"})).await, all);
    assert_eq!(names(json!({"glob": "src/**/*.py"})).await, all[..2]);
    assert_eq!(
        names(json!({"glob": "src/*.{py,txt}"})).await,
        ["src/a.py", "src/c.txt"]
    );
    assert_eq!(
        names(json!({"glob": "*.py", "depth": 2})).await,
        [all[0], all[2]]
    );
    let arguments = json!({"path": "/home/sandbox/p", "glob": "*.py", "limit": 1});
    let cut = scene.call(&id, "list_files", arguments).await.done();
    assert_eq!(
        (&cut["count"], &cut["truncated"]),
        (&json!(1), &json!(true))
    );

    let search = async |mut arguments: Value| {
        arguments["path"] = "/home/sandbox/p".into();
        scene.call(&id, "search_files", arguments).await
    };
    let found = search(json!({"pattern": r"def run\("})).await;
    assert_eq!(found.text, "/home/sandbox/p/src/a.py:3: def run(x):\n");
    let found = found.done();
    assert_eq!(
        (&found["count"], &found["truncated"]),
        (&json!(1), &json!(false))
    );
    let expected = json!({"path": "/home/sandbox/p/src/a.py", "line": 3, "text": "def run(x):"});
    assert_eq!(found["lines"], json!([expected]));
    let count = async |arguments: Value| search(arguments).await.done()["count"].clone();
    assert_eq!(
        count(json!({"pattern": "def run", "ignore_case": true})).await,
        3
    );
    assert_eq!(
        count(json!({"pattern": "run(x)", "literal": true})).await,
        1
    );
    assert_eq!(
        count(json!({"pattern": "def run", "glob": "*.txt"})).await,
        1
    );
    assert_eq!(
        count(json!({"pattern": r"def run\(", "all_files": true})).await,
        2
    );
    let around = search(json!({"pattern": "def run", "glob": "a.py", "context_lines": 1})).await;
    assert_eq!(
        around.text,
        "/home/sandbox/p/src/a.py-2- \n/home/sandbox/p/src/a.py:3: def run(x):\n\
         /home/sandbox/p/src/a.py-4-     return x\n"
    );
    // Long lines are cut, many are limited, and the result says so.
    let long = search(json!({"pattern": "x+needle"})).await.done();
    assert_eq!(long["lines"][0]["cut"], true);
    assert!(
        long["lines"][0]["text"]
            .as_str()
            .is_some_and(|text| text.len() <= 400)
    );
    let many = search(json!({"pattern": "match"})).await;
    assert!(many.text.contains("limit"), "{}", many.text);
    let many = many.done();
    assert_eq!(
        (&many["count"], &many["truncated"]),
        (&json!(100), &json!(true))
    );
    let none = search(json!({"pattern": "no such thing"})).await;
    assert!(none.text.starts_with("no match"), "{}", none.text);
    none.done();

    let told = search(json!({"pattern": "("})).await.refused();
    assert!(told.contains('('), "{told}");
    for (path, word) in [("/no/such", "list_files"), ("relative", "absolute")] {
        let arguments = json!({"path": path, "pattern": "x"});
        let told = scene.call(&id, "search_files", arguments).await.refused();
        assert!(told.contains(word), "{path}: {told}");
    }
    scene.close().await;
}
