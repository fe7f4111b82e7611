// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The usual stage of a test: a server, a client connected to it, and short words for what tests do.

use std::process::{Output, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{process::Command, time::timeout};

use crate::http::Connection;
use crate::poll::PATIENCE;
use crate::{Client, Sdk, Server, Settings, ToolResult, settings};

/// A server and a client.
pub struct Scene {
    /// The server.
    pub server: Server,
    /// An SDK 2.3 client over HTTP.
    pub client: Client,
}

impl Scene {
    /// Starts a server with the tests' usual settings.
    pub async fn open() -> Self {
        Self::with(Settings::default()).await
    }

    /// Starts a server.
    pub async fn with(settings: Settings) -> Self {
        let server = Server::start(settings).await;
        let client = Client::http(Sdk::V2, &server.url()).await;
        Self { server, client }
    }

    /// Creates an environment and gives its id.
    pub async fn create(&self, runtime: &str) -> String {
        create(&self.client, runtime).await
    }

    /// Destroys an environment.
    pub async fn destroy(&self, environment: &str) {
        let arguments = json!({"environment_id": environment});
        let destroyed = self
            .client
            .call("destroy_environment", arguments)
            .await
            .done();
        assert_eq!(destroyed["status"], "destroyed");
    }

    /// Runs code in an environment.
    pub async fn execute(&self, environment: &str, code: &str) -> Value {
        let arguments = json!({"environment_id": environment, "code": code});
        self.client.call("execute", arguments).await.done()
    }

    /// Runs code that must exit with 0 and write nothing to stderr; gives its stdout.
    pub async fn output(&self, environment: &str, code: &str) -> String {
        let result = self.execute(environment, code).await;
        assert_eq!(result["exit_code"], 0, "{result}");
        assert_eq!(result["stderr"], "", "{result}");
        result["stdout"]
            .as_str()
            .expect("stdout is text")
            .to_owned()
    }

    /// Calls a tool on an environment with further arguments.
    pub async fn call(&self, environment: &str, tool: &str, mut arguments: Value) -> ToolResult {
        arguments["environment_id"] = environment.into();
        self.client.call(tool, arguments).await
    }

    /// Runs a command of the product against the server.
    pub async fn waggle(&self, arguments: &[&str]) -> Output {
        let output = Command::new(settings::path(settings::BIN))
            .args(arguments)
            .env(
                "WAGGLE_SERVER",
                format!("http://{}", self.server.authority()),
            )
            .env_remove("WAGGLE_AUTH_TOKEN_FILE")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(PATIENCE, output).await;
        output.expect("it ends").expect("it starts")
    }

    /// What an environment asked of the network, as the server's route tells it.
    pub async fn network(&self, environment: &str) -> Value {
        let mut http = Connection::open(self.server.authority())
            .await
            .expect("a connection");
        let path = format!("/environments/{environment}/network");
        let (status, body) = http.get(&path).await.expect("an answer");
        assert_eq!(status.as_u16(), 200);
        serde_json::from_slice(&body).expect("JSON")
    }

    /// The environments that the server lists.
    pub async fn list(&self) -> Vec<Value> {
        let listed = self
            .client
            .call("list_environments", json!({}))
            .await
            .done();
        let environments = listed["environments"].as_array().expect("a list").clone();
        assert_eq!(listed["count"], environments.len());
        environments
    }

    /// The listed status of an environment, if it is listed.
    pub async fn status(&self, environment: &str) -> Option<String> {
        let listed = self.list().await;
        let entry = listed
            .iter()
            .find(|entry| entry["environment_id"] == environment)?;
        entry["status"].as_str().map(str::to_owned)
    }

    /// Closes the client, stops the server, and checks that nothing is left.
    pub async fn close(self) {
        self.client.close().await;
        self.server.stop(Signal::SIGTERM).await;
    }
}

/// Creates an environment through any client and gives its id.
pub async fn create(client: &Client, runtime: &str) -> String {
    let created = client
        .call("create_environment", json!({"runtime": runtime}))
        .await
        .done();
    assert_eq!(created["runtime"], runtime);
    assert_eq!(created["status"], "running");
    created["environment_id"]
        .as_str()
        .expect("an id")
        .to_owned()
}

/// A client whose server runs over stdio, its state in `data`.
pub async fn stdio_client(sdk: Sdk, data: &TempDir) -> Client {
    let command = Settings::default().command(&["mcp"], data.path());
    let variables: Vec<_> = command
        .as_std()
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_str()?.to_owned(), value?.to_str()?.to_owned())))
        .collect();
    Client::stdio(sdk, &settings::path(settings::BIN), &["mcp"], &variables).await
}
