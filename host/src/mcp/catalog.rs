// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The tools as clients see them: names, descriptions, annotations, schemas.

use std::sync::Arc;

use rmcp::model::{JsonObject, Tool, ToolAnnotations};
use schemars::{JsonSchema, generate::SchemaSettings, transform::Transform};
use serde_json::Value;

use super::{arguments, results};
use crate::{service::validate::BACKGROUND_SECONDS_MAX, settings::Settings};

/// A tool's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    CreateEnvironment,
    DestroyEnvironment,
    ListEnvironments,
    Execute,
    Process,
    InstallPackages,
    WriteFile,
    ReadFile,
    EditFile,
    ListFiles,
    SearchFiles,
    ForwardPort,
}

impl Name {
    pub(super) const ALL: [Self; 12] = [
        Self::CreateEnvironment,
        Self::DestroyEnvironment,
        Self::ListEnvironments,
        Self::Execute,
        Self::Process,
        Self::InstallPackages,
        Self::WriteFile,
        Self::ReadFile,
        Self::EditFile,
        Self::ListFiles,
        Self::SearchFiles,
        Self::ForwardPort,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::CreateEnvironment => "create_environment",
            Self::DestroyEnvironment => "destroy_environment",
            Self::ListEnvironments => "list_environments",
            Self::Execute => "execute",
            Self::Process => "process",
            Self::InstallPackages => "install_packages",
            Self::WriteFile => "write_file",
            Self::ReadFile => "read_file",
            Self::EditFile => "edit_file",
            Self::ListFiles => "list_files",
            Self::SearchFiles => "search_files",
            Self::ForwardPort => "forward_port",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.as_str() == text)
    }

    fn tool(self) -> Tool {
        match self {
            Self::CreateEnvironment => tool::<arguments::CreateEnvironment, results::Created>(
                self,
                "Create an environment",
                "Boots an isolated computer (a microVM with its own kernel) and returns its \
                 environment_id. It lives until destroy_environment is called or no tool has used \
                 it for timeout_minutes; then everything in it is lost. \
                 Its programs reach the outside only through a proxy that is set up for them, and only what \
                 the result's network says.",
                hints(false, false, false),
            ),
            Self::DestroyEnvironment => tool::<arguments::DestroyEnvironment, results::Destroyed>(
                self,
                "Destroy an environment",
                "Ends an environment at once, with all its processes and files. Nothing of it is \
                 kept; its environment_id is invalid afterwards.",
                hints(false, true, false),
            ),
            Self::ListEnvironments => tool::<arguments::ListEnvironments, results::Environments>(
                self,
                "List environments",
                "Lists the environments that exist, the oldest first, with their ids and status. \
                 One with status error has lost its machine: destroy it.",
                hints(true, false, true),
            ),
            Self::Execute => tool::<arguments::Execute, results::Executed>(
                self,
                "Run a program",
                "Runs a program in an environment, by default as the user sandbox in /home/sandbox, and \
                 returns its stdout, stderr and exit code once it ends. Each call is a new \
                 process: variables do not carry over, files do. When timeout_seconds are over \
                 the program is killed with everything it has started, and the output so far is \
                 returned as an error. Long output is cut in the middle; the result then names a \
                 log in the environment that read_file reads. For servers and long work set \
                 background: the call returns a process_id, which the tool process takes as long as the \
                 environment lives.",
                hints(false, true, false),
            ),
            Self::Process => tool::<arguments::Process, results::Process>(
                self,
                "Follow a background program",
                "Works with a program that execute started in the background: read its output from a \
                 cursor, write to its input, wait for its end, send it a signal, or list all of \
                 them. A process_id is valid until its environment is destroyed; of ended programs the \
                 last 32 are remembered. Output waits for its reader, up to 256 KiB; beyond that \
                 the oldest is dropped, and bytes_lost says how much.",
                hints(false, true, false),
            ),
            Self::InstallPackages => tool::<arguments::InstallPackages, results::Installed>(
                self,
                "Install packages",
                "Installs packages with the environment's own manager: pip for python, npm (globally) \
                 for node, the system's (apt and the like, as root) for shell. Package lists are \
                 brought up to date by itself; where Python is externally managed, a virtual \
                 environment is made that execute then uses. Returns what was installed, with \
                 versions. They stay until the environment is destroyed.",
                hints(false, false, true).open_world(true),
            ),
            Self::WriteFile => tool::<arguments::WriteFile, results::Written>(
                self,
                "Write a file",
                "Writes a whole file as the user sandbox, creating missing folders. An existing \
                 file is replaced at once, never half; with append the content goes behind what \
                 is there. Use encoding base64 for bytes, mode for permissions (0755 for a \
                 program). To change a part of a file, edit_file is shorter.",
                hints(false, true, false),
            ),
            Self::ReadFile => tool::<arguments::ReadFile, results::Read>(
                self,
                "Read a file",
                "Returns a file's content: as text if it is UTF-8, else as base64. At most \
                 262,144 bytes a call: for larger files use start_line and line_count (text), or \
                 offset and length (bytes), not both. search_files finds the lines to read.",
                hints(true, false, true),
            ),
            Self::EditFile => tool::<arguments::EditFile, results::Edited>(
                self,
                "Edit a file",
                "Replaces old_text by new_text in a file, at once and as the user sandbox, and \
                 returns how often it did. old_text must be exactly what the file has, with white \
                 space and line ends, and must occur expected_replacements times (default 1), or \
                 the file is left as it is and the error says how often it occurs: give more of \
                 the lines around it to make it unique, or replace_all. With sha256 (an earlier \
                 edit returns it) it is refused if somebody else has changed the file. Files of at \
                 most 8 MiB.",
                hints(false, true, false),
            ),
            Self::ListFiles => tool::<arguments::ListFiles, results::Files>(
                self,
                "List files",
                "Lists a folder (default /home/sandbox), sorted by name, with sizes, permissions \
                 and times. With depth it descends; names are then relative paths. With glob it \
                 finds files by pattern, at any depth. Symbolic links are not followed. At most \
                 2,000 entries.",
                hints(true, false, true),
            ),
            Self::SearchFiles => tool::<arguments::SearchFiles, results::Matches>(
                self,
                "Search in files",
                "Searches files below a folder (default /home/sandbox), or one file, for a regular \
                 expression, and returns the matching lines as path:number: text, at most limit \
                 of them. Hidden files, those that .gitignore names, and binary files are left \
                 out; all_files takes the first two in. Long lines are cut. Symbolic links are not \
                 followed. It stops after 30 seconds with what it has found.",
                hints(true, false, true),
            ),
            Self::ForwardPort => tool::<arguments::ForwardPort, results::Forwarded>(
                self,
                "Forward a port",
                "Makes a server that runs in an environment reachable from the host of this tool: \
                 connections to the returned address, on 127.0.0.1, lead to port on the environment's \
                 own loopback. Start the server with execute and background first, listening on \
                 127.0.0.1 or 0.0.0.0. Inside the environment itself use localhost. It ends with \
                 the environment or with close; bytes that go through count as use of it.",
                hints(false, false, true),
            ),
        }
    }
}

/// All tools, in the order in which they are told, with the operator's limits.
pub(super) fn tools(settings: &Settings) -> Vec<Tool> {
    let with_limits = |name: Name| {
        let mut tool = name.tool();
        let schema = Arc::make_mut(&mut tool.input_schema);
        if let Some(timeout) = schema
            .get_mut("properties")
            .and_then(|properties| properties.get_mut("timeout_seconds"))
            .and_then(Value::as_object_mut)
        {
            let max = settings.max_exec_timeout.as_secs();
            if name == Name::Execute {
                let default = settings.default_exec_timeout.as_secs();
                let told = timeout.get("description").and_then(Value::as_str);
                let told = format!(
                    "{} Default: {default}, at most {max}; in the background none, at most {BACKGROUND_SECONDS_MAX}.",
                    told.unwrap_or_default()
                );
                timeout.insert("description".to_owned(), told.into());
            } else if name == Name::InstallPackages {
                let max = settings.install_timeout.as_secs().max(1);
                timeout.insert("maximum".to_owned(), max.into());
                timeout.insert("default".to_owned(), max.into());
            } else {
                timeout.insert("maximum".to_owned(), max.into());
            }
        }
        tool
    };
    Name::ALL.into_iter().map(with_limits).collect()
}

/// Read-only, destructive, idempotent; nothing here reaches beyond the environment.
fn hints(read_only: bool, destructive: bool, idempotent: bool) -> ToolAnnotations {
    ToolAnnotations::new()
        .read_only(read_only)
        .destructive(destructive)
        .idempotent(idempotent)
        .open_world(false)
}

fn tool<A: JsonSchema, R: JsonSchema>(
    name: Name,
    title: &str,
    description: &'static str,
    hints: ToolAnnotations,
) -> Tool {
    let input = schema::<A>(SchemaSettings::draft2020_12());
    let output = schema::<R>(SchemaSettings::draft2020_12().for_serialize());
    let mut tool = Tool::new(name.as_str(), description, Arc::new(input));
    tool.title = Some(title.to_owned());
    tool.output_schema = Some(Arc::new(output));
    tool.annotations = Some(hints);
    tool
}

fn schema<T: JsonSchema>(settings: SchemaSettings) -> JsonObject {
    let mut schema = settings
        .with(|settings| settings.inline_subschemas = true)
        .into_generator()
        .into_root_schema_for::<T>();
    Plain.transform(&mut schema);
    // A JSON Schema of a struct is an object.
    match schema.to_value() {
        Value::Object(object) => object,
        _ => JsonObject::new(),
    }
}

/// Removes what strict validators reject (`format: uint32` and the like are Rust's, not JSON
/// Schema's; types come singly) and what only costs a model tokens (Rust's type names).
#[derive(Debug, Clone)]
struct Plain;

impl Transform for Plain {
    fn transform(&mut self, schema: &mut schemars::Schema) {
        let rust_format = |format: &Value| {
            format
                .as_str()
                .is_some_and(|text| text.starts_with("int") || text.starts_with("uint"))
        };
        if schema.get("format").is_some_and(rust_format) {
            schema.remove("format");
        }
        schema.remove("title");
        never_null(schema);
        schemars::transform::transform_subschemas(self, schema);
    }
}

/// Removes the choice of null: an optional argument is left out, and so is a result that there is none
/// of (the server takes null all the same). More than one type is beyond some models' dialects.
fn never_null(schema: &mut schemars::Schema) {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [single] = types.as_slice() {
            let single = single.clone();
            schema.insert("type".to_owned(), single);
        }
    }
    if let Some(Value::Array(branches)) = schema.get_mut("anyOf") {
        branches.retain(|branch| branch.get("type").is_none_or(|name| name != "null"));
        if let [Value::Object(single)] = branches.as_slice() {
            let single = single.clone();
            schema.remove("anyOf");
            // What is said of the argument comes before what is said of its type.
            for (key, value) in single {
                if schema.get(&key).is_none() {
                    schema.insert(key, value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_says_all_that_clients_look_for() {
        for tool in Name::ALL.map(Name::tool) {
            let name = tool.name.to_string();
            assert_eq!(Name::parse(&name).map(Name::as_str), Some(name.as_str()));
            assert!(tool.title.is_some(), "{name}");
            let description = tool.description.unwrap_or_default();
            assert!(
                (20..2048).contains(&description.len()),
                "{name}: {description}"
            );
            let hints = tool.annotations.expect(&name);
            assert!(
                hints.read_only_hint.is_some()
                    && hints.destructive_hint.is_some()
                    && hints.idempotent_hint.is_some()
                    && hints.open_world_hint.is_some(),
                "{name}"
            );
            let output = tool.output_schema.expect(&name);
            for schema in [&tool.input_schema, &output] {
                assert_eq!(schema.get("type"), Some(&Value::from("object")), "{name}");
                let text = serde_json::to_string(schema).expect("JSON");
                assert!(!text.contains("\"format\""), "{name}: {text}");
                assert!(!text.contains("$ref"), "{name}: {text}");
                assert!(!text.contains("\"null\""), "{name}: {text}");
            }
        }
    }

    #[test]
    fn bounds_and_required_arguments_are_in_the_schema() {
        let execute = Name::Execute.tool();
        let schema = Value::Object(execute.input_schema.as_ref().clone());
        assert_eq!(
            schema["required"],
            serde_json::json!(["environment_id", "code"])
        );
        assert_eq!(
            schema["properties"]["timeout_seconds"]["maximum"],
            BACKGROUND_SECONDS_MAX
        );
        assert_eq!(schema["additionalProperties"], false);
        let list = Name::ListEnvironments.tool();
        assert!(list.input_schema.get("required").is_none());
    }
}
