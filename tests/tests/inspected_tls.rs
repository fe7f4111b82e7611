// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Networks that inspect TLS: every certificate is signed by an authority of the company's. With its
//! certificate in `WAGGLE_CA_BUNDLE` real machines reach registries all the same, each program in its own
//! way; without, none does.

#![allow(
    clippy::indexing_slicing,
    reason = "JSON gives null for what is absent; anything else that is missing fails the test"
)]

use serde_json::{Value, json};
use waggle_tests::package_registry::{HELLO, HOST, PACKAGE};
use waggle_tests::{PackageRegistry, Scene, Settings, ToolResult, machines};

/// A program that gets [`HELLO`] from the registry at `$URL`.
struct Program {
    language: &'static str,
    user: &'static str,
    code: &'static str,
}

const fn shell(code: &'static str) -> Program {
    Program {
        language: "shell",
        user: "sandbox",
        code,
    }
}

const IN_PYTHON: [Program; 2] = [
    Program {
        language: "python",
        user: "sandbox",
        code: "import os, urllib.request; \
               print(urllib.request.urlopen(os.environ['URL'] + '/hello', timeout=60).read().decode())",
    },
    shell(
        "pip install -q --index-url $URL/simple/ --target direct waggle-inspected && \
         cd direct && python3 -c 'import waggle_inspected; print(waggle_inspected.hello)'",
    ),
];

const IN_NODE: [Program; 2] = [
    // npm waits for more than a minute before it gives a certificate up.
    shell(
        "echo fetch-retries=0 >> ~/.npmrc && \
         npm install -g --registry $URL/npm/ waggle-inspected && \
         node -e \"console.log(require('waggle-inspected'))\"",
    ),
    // Node's own client takes no proxy before 22.21: through a tunnel that the program asks for.
    Program {
        language: "node",
        user: "sandbox",
        code: "
const http = require('http'), https = require('https');
const url = new URL(process.env.URL);
const tunnel = http.request({host: '127.0.0.1', port: 703, method: 'CONNECT', path: url.host});
tunnel.on('connect', (answer, socket) => {
  https.get(url + 'hello', {agent: false, socket}, (response) => {
    response.pipe(process.stdout);
  }).on('error', (error) => { console.error(error); process.exit(1); });
}).end();",
    },
];

const IN_SHELL: [Program; 2] = [
    shell("curl -sS --max-time 60 $URL/hello"),
    Program {
        language: "shell",
        user: "root",
        code: "echo \"deb [trusted=yes] $URL/apt ./\" > /etc/apt/inspected.list && \
               only='-o Dir::Etc::sourcelist=/etc/apt/inspected.list -o Dir::Etc::sourceparts=-' && \
               apt-get -q $only -o APT::Update::Error-Mode=any update && \
               apt-get -q $only install -y waggle-inspected && cat /usr/share/waggle-inspected",
    },
];

/// A server whose environments may reach the registry, and which takes it for pip's and npm's.
async fn scene(registry: &PackageRegistry, settings: Settings) -> Scene {
    let url = registry.url();
    let registries = format!("pip={url}/simple/, npm={url}/npm/");
    let settings = settings
        .without_proxies()
        .with("WAGGLE_NETWORK_PACKAGES", registries)
        .with("WAGGLE_NETWORK_ALLOW", HOST);
    Scene::with(settings).await
}

/// What became of an environment's programs.
struct Outcome {
    /// Each one's code, and its result.
    ran: Vec<(&'static str, Value)>,
    /// Installing the package through the mirror.
    installed: Option<ToolResult>,
    /// What was asked of the network.
    network: Value,
}

async fn outcome(scene: &Scene, runtime: &str, programs: &'static [Program], url: &str) -> Outcome {
    let id = scene.create(runtime).await;
    let mut ran = Vec::new();
    for Program {
        language,
        user,
        code,
    } in programs
    {
        let arguments = json!({
            "code": code, "language": language, "user": user, "env": {"URL": url}, "timeout_seconds": 200,
        });
        let result = scene.call(&id, "execute", arguments).await;
        ran.push((*code, result.done()));
    }
    // apt's repository is not laid out for a suite.
    let installed = match runtime {
        "shell" => None,
        _ => Some(
            scene
                .call(&id, "install_packages", json!({"packages": PACKAGE}))
                .await,
        ),
    };
    let network = scene.network(&id).await;
    scene.destroy(&id).await;
    Outcome {
        ran,
        installed,
        network,
    }
}

/// In three environments, two at a time.
async fn outcomes(scene: &Scene, url: &str) -> [Outcome; 3] {
    let ours = async {
        let python = outcome(scene, "python", &IN_PYTHON, url).await;
        (python, outcome(scene, "shell", &IN_SHELL, url).await)
    };
    let ((python, shell), node) = tokio::join!(ours, outcome(scene, "node", &IN_NODE, url));
    [python, shell, node]
}

#[tokio::test]
async fn with_the_authority_in_the_bundle_every_program_gets_on() {
    let _permit = machines(2).await;
    let registry = PackageRegistry::start().await;
    let settings = Settings::default().with("WAGGLE_CA_BUNDLE", registry.bundle());
    let scene = scene(&registry, settings).await;
    for outcome in outcomes(&scene, &registry.url()).await {
        for (code, result) in &outcome.ran {
            assert_eq!(result["exit_code"], 0, "{code}: {result}");
            let out = result["stdout"].as_str().expect("text");
            assert!(out.trim_end().ends_with(HELLO), "{code}: {result}");
        }
        // The mirror's own requests trust the bundle.
        let Some(installed) = outcome.installed else {
            continue;
        };
        let installed = installed.done();
        assert_eq!(installed["installed"][0]["name"], PACKAGE, "{installed}");
        let mut records = outcome.network["records"]
            .as_array()
            .expect("a list")
            .iter();
        let mirrored =
            |record: &Value| record["via"] == "mirror" && record["decision"] == "allowed";
        assert!(records.any(mirrored), "{}", outcome.network);
    }
    scene.close().await;
}

#[tokio::test]
async fn without_it_each_says_that_the_certificate_is_not_trusted() {
    let _permit = machines(2).await;
    let registry = PackageRegistry::start().await;
    let scene = scene(&registry, Settings::default()).await;
    for outcome in outcomes(&scene, &registry.url()).await {
        for (code, result) in &outcome.ran {
            assert_ne!(result["exit_code"], 0, "{code}: {result}");
            let said = format!("{}{}", result["stdout"], result["stderr"]);
            let told = said.to_lowercase().contains("certificate") && !said.contains(HELLO);
            assert!(told, "{code}: {said}");
        }
        // Through the mirror: this host does not trust the authority either.
        if let Some(installed) = outcome.installed {
            let text = installed.refused();
            let told = text.contains("certificate") && text.contains("WAGGLE_CA_BUNDLE");
            assert!(told, "{text}");
        }
    }
    scene.close().await;
}
