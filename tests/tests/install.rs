// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Installing packages in real machines, from the registries that this machine reaches, and what a guest
//! is given so that its package managers find them.

#![allow(
    clippy::indexing_slicing,
    reason = "JSON gives null for what is absent; anything else that is missing fails the test"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use waggle_tests::package_registry::make_authority;
use waggle_tests::{Scene, Settings, machines, poll};

/// How long the client waits: a manager needs its time under emulation.
const PATIENCE: Duration = Duration::from_secs(300);

async fn install(scene: &Scene, environment: &str, packages: &str) -> Value {
    install_told(scene, environment, packages).await.0
}

/// As [`install`], with the texts of the progress that was reported meanwhile.
async fn install_told(scene: &Scene, environment: &str, packages: &str) -> (Value, Vec<String>) {
    let arguments = json!({"environment_id": environment, "packages": packages});
    let call = scene
        .client
        .begin("install_packages", arguments, PATIENCE, true)
        .await;
    let id = call.id();
    let result = call.answer(PATIENCE).await.expect("a result").done();
    assert_eq!(result["exit_code"], 0, "{result}");
    let reports = scene.client.progress(id).into_iter();
    (result, reports.map(|report| report.message).collect())
}

/// The version of a package that was installed.
fn version<'a>(result: &'a Value, name: &str) -> &'a str {
    let mut installed = result["installed"].as_array().expect("a list").iter();
    let found = installed.find(|package| package["name"] == name);
    let Some(found) = found else {
        panic!("{name} is not among {result}")
    };
    found["version"].as_str().expect("text")
}

#[tokio::test]
async fn pip_installs_and_says_what() {
    let _permit = machines(1).await;
    let scene = Scene::with(Settings::default().with_registries()).await;
    let id = scene.create("python").await;
    let result = install(&scene, &id, "six>=1.16,<2").await;
    let code = "import six; print(six.__version__, end='')";
    assert_eq!(scene.output(&id, code).await, version(&result, "six"));
    // Again: nothing changes, and nothing is said to.
    let result = install(&scene, &id, "six").await;
    assert_eq!(result["installed"], json!([]), "{result}");
    let arguments = json!({"packages": "waggle-no-such-package-0a1b2c"});
    let result = scene.call(&id, "install_packages", arguments).await;
    assert!(result.refused().contains("no such package"));
    // What is no name is refused before anything runs: what it is, why, and what a valid one looks like.
    for (packages, named, why) in [
        (
            "six --index-url=https://evil.example",
            r#""--index-url=https://evil.example""#,
            "options are not allowed",
        ),
        (
            "git+https://evil.example/six",
            r#""git+https://evil.example/six""#,
            "URLs are not allowed",
        ),
        ("six >= 1.16", r#"">=""#, "without spaces"),
    ] {
        let arguments = json!({"packages": packages});
        let result = scene.call(&id, "install_packages", arguments).await;
        let text = result.refused();
        for part in [named, why, "valid form", "pandas[excel]==2.2.*"] {
            assert!(text.contains(part), "{text}");
        }
    }
    scene.close().await;
}

#[tokio::test]
async fn npm_installs_and_says_what() {
    let _permit = machines(1).await;
    let scene = Scene::with(Settings::default().with_registries()).await;
    let id = scene.create("node").await;
    let result = install(&scene, &id, "is-odd@^3 @types/debug@^4").await;
    let version = |name| version(&result, name).to_owned();
    assert!(version("is-odd").starts_with("3."), "{result}");
    assert!(version("@types/debug").starts_with("4."), "{result}");
    // What they need came along.
    assert!(version("@types/ms").starts_with("2."), "{result}");
    let code = "const root = require.resolve('is-odd'); \
                const version = require(require.resolve('is-number/package.json', {paths: [root]})).version; \
                console.log(require('is-odd')('7'), version)";
    let expected = format!("true {}\n", version("is-number"));
    assert_eq!(scene.output(&id, code).await, expected);
    scene.close().await;
}

#[tokio::test]
async fn apt_updates_its_lists_and_installs_as_root() {
    let _permit = machines(1).await;
    let scene = Scene::with(Settings::default().with_registries()).await;
    let id = scene.create("shell").await;
    // Progress is reported once a second: however fast this host is, no stage is over before that.
    let code = "echo 'APT::Update::Pre-Invoke { \"sleep 2\"; }; DPkg::Pre-Invoke { \"sleep 2\"; };' \
                > /etc/apt/apt.conf.d/99stages";
    let arguments = json!({"code": code, "user": "root"});
    let written = scene.call(&id, "execute", arguments).await.done();
    assert_eq!(written["exit_code"], 0, "{written}");
    let (result, told) = install_told(&scene, &id, "hello").await;
    let stage = |name| told.iter().position(|message| message.contains(name));
    let (updating, installing) = (stage("s: updating package lists"), stage("s: installing"));
    assert!(updating.is_some() && updating < installing, "{told:?}");
    let installed = version(&result, "hello").to_owned();
    assert_eq!(scene.output(&id, "hello").await, "Hello, world!\n");
    let code = "dpkg-query -W -f '${Version}' hello";
    assert_eq!(scene.output(&id, code).await, installed);
    scene.close().await;
}

/// How many programs of that name run in the environment.
async fn running(scene: &Scene, environment: &str, name: &str) -> String {
    let code = format!("cat /proc/[0-9]*/comm 2>/dev/null | grep -cx {name} || true");
    scene.execute(environment, &code).await["stdout"].to_string()
}

/// A manager that is killed at the call's deadline, or because the call was cancelled, leaves nothing
/// running, and the next call gets on.
#[tokio::test]
async fn a_deadline_and_a_cancellation_kill_the_manager() {
    let _permit = machines(1).await;
    let scene = Scene::with(Settings::default().with_registries()).await;
    let id = scene.create("shell").await;
    // The lists alone take longer.
    let arguments = json!({"packages": "hello", "timeout_seconds": 2});
    let result = scene.call(&id, "install_packages", arguments).await;
    assert_eq!(result.structured["exit_code"], 137, "{}", result.structured);
    assert_eq!(result.structured["installed"], json!([]));
    let text = result.refused();
    assert!(
        text.contains("killed at its deadline") && text.contains("timeout_seconds"),
        "{text}"
    );
    assert_eq!(running(&scene, &id, "apt-get").await, r#""0\n""#);

    let arguments = json!({"environment_id": id, "packages": "hello"});
    let call = scene
        .client
        .begin("install_packages", arguments, PATIENCE, false)
        .await;
    poll::until("the manager runs", async || {
        (running(&scene, &id, "apt-get").await == r#""1\n""#).then_some(())
    })
    .await;
    scene.client.cancel(&call).await;
    poll::until("the manager is killed", async || {
        (running(&scene, &id, "apt-get").await == r#""0\n""#).then_some(())
    })
    .await;
    let error = call.answer(PATIENCE).await.expect_err("it was cancelled");
    assert_eq!(error.kind, "cancelled", "{error:?}");
    scene.close().await;
}

/// By which ways the environment's package manager was let through, and whether anything came from the
/// mirror's cache.
async fn ways(scene: &Scene, environment: &str) -> (BTreeSet<String>, bool) {
    let report = scene.network(environment).await;
    let records = report["records"].as_array().expect("a list");
    let allowed = records
        .iter()
        .filter(|record| record["decision"] == "allowed");
    let via = allowed.map(|record| record["via"].as_str().expect("a word").to_owned());
    let cached = records.iter().any(|record| record["from_cache"] == true);
    (via.collect(), cached)
}

/// What one environment has fetched, another gets from the package mirror, also of a later server that
/// cannot reach any registry: its way out is a proxy that does not exist.
#[tokio::test]
async fn a_second_installation_needs_no_registry() {
    let _permit = machines(1).await;
    let cache = tempfile::TempDir::new().expect("a temporary folder");
    let settings = Settings::default()
        .with_registries()
        .with("WAGGLE_PACKAGE_CACHE_DIR", cache.path());
    let mut first = Vec::new();
    let scene = Scene::with(settings.clone()).await;
    let packages = [
        ("python", "six", "attrs", "ERROR: "),
        ("node", "is-number", "is-odd", "npm ERR! code E50"),
        ("shell", "hello", "sl", "E: Failed to fetch "),
    ];
    for (runtime, package, ..) in packages {
        let id = scene.create(runtime).await;
        first.push(install(&scene, &id, package).await["installed"].clone());
        scene.destroy(&id).await;
    }
    scene.close().await;

    let nowhere = "http://127.0.0.1:9";
    let cut = ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"]
        .into_iter()
        .fold(settings, |settings, name| settings.with(name, nowhere));
    let cut = cut.without("NO_PROXY").without("no_proxy");
    let scene = Scene::with(cut).await;
    for (index, (runtime, package, other, words)) in packages.into_iter().enumerate() {
        let id = scene.create(runtime).await;
        let again = install(&scene, &id, package).await;
        assert_eq!(again["installed"], first[index], "{again}");
        let (via, cached) = ways(&scene, &id).await;
        assert!(via.contains("mirror") && cached, "{runtime}: {via:?}");
        // What nobody has fetched cannot be had.
        let result = scene
            .call(&id, "install_packages", json!({"packages": other}))
            .await;
        // The manager's own words stay beside ours.
        let own = result.structured["stderr"].as_str().expect("text");
        assert!(own.contains(words) && own.contains(other), "{own}");
        let text = result.refused();
        assert!(text.contains("could not be reached"), "{text}");
        scene.destroy(&id).await;
    }
    scene.close().await;
}

/// Where the owner wants no mirror, the managers go to the registries through the proxy, pip also when it has
/// none of our variables.
#[tokio::test]
async fn without_the_mirror_managers_reach_the_registries_themselves() {
    let _permit = machines(1).await;
    let settings = Settings::default()
        .with_registries()
        .with("WAGGLE_PACKAGE_MIRROR", "off");
    let scene = Scene::with(settings).await;
    for (runtime, package) in [("python", "six"), ("node", "is-number"), ("shell", "hello")] {
        let id = scene.create(runtime).await;
        let result = install(&scene, &id, package).await;
        assert!(!version(&result, package).is_empty());
        if runtime == "python" {
            let code = "env -i \"$(command -v pip)\" install -q --no-cache-dir --target bare six && ls bare/six.py";
            let arguments = json!({"code": code, "language": "shell", "timeout_seconds": 200});
            let bare = scene.call(&id, "execute", arguments).await.done();
            assert_eq!(bare["stdout"], "bare/six.py\n", "{bare}");
        }
        // By TLS or not, as the registries are: a tunnel, or a plain request.
        let (via, cached) = ways(&scene, &id).await;
        let known: BTreeSet<_> = ["connect", "http"].map(str::to_owned).into();
        let ours = !via.is_empty() && via.is_subset(&known) && !cached;
        assert!(ours, "{runtime}: {via:?}");
        scene.destroy(&id).await;
    }
    assert!(!scene.server.log().contains("via=mirror"));
    scene.close().await;
}

/// An npm that brings more than anybody looks at, and data that is no package.
const LARGE_NPM: &str = r#"#!/bin/sh
cd ~/.npm-global/lib/node_modules
mkdir -p $(seq -f large/node_modules/part-%g 500) large/test/node_modules/data
describe() { echo "{\"name\": \"$2\", \"version\": \"1.0.$3\"}" > "$1/package.json"; }
describe large large 0
describe large/test/node_modules/data data 0
for n in $(seq 500); do describe large/node_modules/part-$n part-$n $n; done
echo "added 501 packages in 1s"
"#;

/// The owner's own command goes before what is found in the image, and is read as what it is.
#[tokio::test]
async fn an_owners_command_installs() {
    let _permit = machines(1).await;
    let command = "/home/sandbox/venv/bin/pip install --target=/home/sandbox/chosen";
    let settings = Settings::default()
        .with_registries()
        .with("WAGGLE_RUNTIME_PYTHON_INSTALL_COMMAND", command)
        .with(
            "WAGGLE_RUNTIME_NODE_INSTALL_COMMAND",
            "/home/sandbox/bin/npm",
        );
    let scene = Scene::with(settings).await;
    let id = scene.create("python").await;
    let result = install(&scene, &id, "six").await;
    let code = "import sys; sys.path = ['/home/sandbox/chosen'] + sys.path; import six; \
                print(six.__file__, six.__version__, end='')";
    let expected = format!("/home/sandbox/chosen/six.py {}", version(&result, "six"));
    assert_eq!(scene.output(&id, code).await, expected);

    // What one call reports has an end, and the result says so.
    let id = scene.create("node").await;
    let arguments = json!({"path": "/home/sandbox/bin/npm", "content": LARGE_NPM, "mode": "0755"});
    scene.call(&id, "write_file", arguments).await.done();
    let result = install(&scene, &id, "large").await;
    assert_eq!(version(&result, "large"), "1.0.0");
    let installed = result["installed"].as_array().expect("a list");
    assert_eq!(installed.len(), 401);
    assert!(installed.iter().all(|package| package["name"] != "data"));
    let told = result["stdout"].as_str().expect("text");
    assert!(told.contains("npm ls -g --all"), "{told}");
    scene.close().await;
}

/// What the system's Python refuses goes into a virtual environment, which later programs use; one that
/// was not finished is made anew.
#[tokio::test]
async fn an_externally_managed_python_gets_a_virtual_environment() {
    let _permit = machines(1).await;
    let scene = Scene::with(Settings::default().with_registries()).await;
    let id = scene.create("python").await;
    // As in an image whose Python is the system's alone, after a venv that was killed before it had pip.
    let code = "cd /home/sandbox/venv && rm -rf bin/pip* lib/python3*/site-packages/* /etc/waggle/path; \
                ls /usr/lib/python3*/EXTERNALLY-MANAGED";
    let arguments = json!({"code": code, "language": "shell", "user": "root"});
    let removed = scene.call(&id, "execute", arguments).await.done();
    assert_eq!(removed["exit_code"], 0, "{removed}");
    let result = install(&scene, &id, "six").await;
    let code = "import six, sys; print(sys.prefix, six.__version__, end='')";
    let expected = format!("/home/sandbox/venv {}", version(&result, "six"));
    assert_eq!(scene.output(&id, code).await, expected);
    scene.close().await;
}

/// Every program is pointed at the proxy and at the guest's own store of certificates, which has the
/// host's as well; a caller's own variables go before.
#[tokio::test]
async fn a_guest_is_told_its_way_out() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("shell").await;
    let code = "echo $HTTPS_PROXY; echo $https_proxy; echo $NO_PROXY; test -s $SSL_CERT_FILE && \
                test $SSL_CERT_FILE = $REQUESTS_CA_BUNDLE && test $SSL_CERT_FILE = $PIP_CERT && echo store; \
                apt-config dump Acquire::http::Proxy Acquire::https::CaInfo | grep -c 127.0.0.1:703";
    let out = scene.output(&id, code).await;
    let proxy = "http://127.0.0.1:703";
    assert_eq!(
        out,
        format!("{proxy}\n{proxy}\nlocalhost,127.0.0.1,::1\nstore\n1\n")
    );
    let arguments =
        json!({"code": "echo $HTTPS_PROXY$https_proxy", "env": {"HTTPS_PROXY": "mine"}});
    let result = scene.call(&id, "execute", arguments).await.done();
    assert_eq!(result["stdout"], format!("mine{proxy}\n"));
    scene.close().await;
}

/// A bundle of the operator's reaches the guest's store, and outlives its being written anew.
#[tokio::test]
async fn an_authority_of_the_operators_reaches_the_guest() {
    let _permit = machines(1).await;
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let bundle = make_authority(folder.path());
    let pem = std::fs::read_to_string(&bundle).expect("the bundle");
    let line = pem.lines().nth(1).expect("a line of base64").to_owned();
    let scene = Scene::with(Settings::default().with("WAGGLE_CA_BUNDLE", &bundle)).await;
    let id = scene.create("shell").await;
    let count = format!("grep -cF '{line}' $SSL_CERT_FILE");
    assert_eq!(scene.output(&id, &count).await, "1\n");
    assert_eq!(
        scene
            .output(&id, &format!("grep -cF '{line}' $NODE_EXTRA_CA_CERTS"))
            .await,
        "1\n"
    );
    let arguments =
        json!({"code": "update-ca-certificates", "user": "root", "timeout_seconds": 120});
    let written = scene.call(&id, "execute", arguments).await.done();
    assert_eq!(written["exit_code"], 0, "{written}");
    assert_eq!(scene.output(&id, &count).await, "1\n");
    scene.close().await;

    std::fs::write(&bundle, "no certificate").expect("written");
    let (status, complaint) = Settings::default()
        .with("WAGGLE_CA_BUNDLE", &bundle)
        .serve_in_vain()
        .await;
    assert!(
        !status.success() && complaint.contains("ca.pem"),
        "{complaint}"
    );
}
