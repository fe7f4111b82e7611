// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The Model Context Protocol's side: parse arguments, call a use case, shape the result.
//!
//! This is the only module that names rmcp. What the user did wrong or may act on becomes a tool
//! result marked as an error, whose text says what to call next; protocol errors are for unknown
//! tools and a broken server.

mod arguments;
mod catalog;
mod files;
pub mod http;
mod progress;
mod results;
pub mod stdio;

use std::sync::Arc;

use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CacheScope, CallToolRequestParams, CallToolResponse, CallToolResult, CompleteRequestMethod,
        CompleteRequestParams, CompleteResult, ContentBlock, CustomRequest, CustomResult,
        DiscoverResult, ErrorCode, Implementation, JsonObject, ListPromptsRequestMethod,
        ListPromptsResult, ListResourceTemplatesRequestMethod, ListResourceTemplatesResult,
        ListResourcesRequestMethod, ListResourcesResult, ListToolsResult, MetaObject,
        PaginatedRequestParams, ProtocolVersion, ServerCapabilities, ServerConfig, Tool,
    },
    service::RequestContext,
    transport::common::http_header::HEADER_SESSION_ID,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::service::{
    Call, CreateRequest, ExecuteRequest, Execution, ForwardRequest, Installation, ReadFrom,
    Service, ServiceError, Until,
};
use arguments::{
    CreateEnvironment, DestroyEnvironment, Execute, ForwardPort, InstallPackages, ListEnvironments,
    Process, ProcessAction,
};
use catalog::Name;

const INSTRUCTIONS: &str = "Waggle gives you isolated computers: each environment is a microVM with \
its own kernel. Call create_environment first (a few seconds), use its environment_id with the other \
tools, and destroy_environment when done. Files and installed packages last until the environment is \
destroyed, by you or after its idle timeout.";

/// Largest request, over either transport. `write_file` takes whole files, in base64 a third larger
/// than they are.
const REQUEST_MAX: usize = 24 * 1024 * 1024;

/// Largest result. The official Python client refuses events above 1 MiB, and then the whole call;
/// what surrounds a result takes far less than the rest.
const RESULT_MAX: usize = 1_000_000;

/// The methods that are served in every revision.
const KNOWN_METHODS: [&str; 2] = ["tools/call", "tools/list"];

/// How long clients may keep the list of tools and what else the server says of itself. It changes
/// only with a new server; this is how long one may go unnoticed.
const FRESH_MS: u64 = 5 * 60 * 1000;

/// The MCP server's view of the use cases. Cheap to clone: one for each MCP session.
#[derive(Debug, Clone)]
pub struct Handler {
    service: Arc<Service>,
    tools: Arc<Vec<Tool>>,
    /// Who answers, for results of the revision that has no handshake to say it.
    signature: Arc<MetaObject>,
}

impl Handler {
    /// A handler for `service`.
    #[must_use]
    pub fn new(service: Arc<Service>) -> Self {
        let tools = Arc::new(catalog::tools(service.settings()));
        // rmcp knows the key, but sets it on this kind of result only.
        let signed = DiscoverResult::new(Vec::new(), ServerCapabilities::default())
            .with_server_info(identity());
        Self {
            service,
            tools,
            signature: Arc::new(signed.meta.unwrap_or_default()),
        }
    }

    /// Signs a result, if the request is of a revision that asks for it.
    fn sign(&self, meta: &mut Option<MetaObject>, context: &RequestContext<RoleServer>) {
        if is_stateless(context) {
            let meta = meta.get_or_insert_default();
            meta.0.extend(self.signature.0.clone());
        }
    }

    async fn dispatch(
        &self,
        name: Name,
        arguments: JsonObject,
        call: &Arc<Call>,
    ) -> CallToolResult {
        let outcome = match name {
            Name::CreateEnvironment => self.create_environment(arguments, call).await,
            Name::DestroyEnvironment => self.destroy_environment(arguments).await,
            Name::ListEnvironments => self.list_environments(arguments),
            Name::Execute => self.execute(arguments, call).await,
            Name::Process => self.process(arguments, call).await,
            Name::InstallPackages => self.install_packages(arguments, call).await,
            Name::WriteFile => self.write_file(arguments).await,
            Name::ReadFile => self.read_file(arguments).await,
            Name::EditFile => self.edit_file(arguments).await,
            Name::ListFiles => self.list_files(arguments).await,
            Name::SearchFiles => self.search_files(arguments).await,
            Name::ForwardPort => self.forward_port(arguments).await,
        };
        outcome.unwrap_or_else(|error| {
            tracing::info!(tool = name.as_str(), %error, "a call was refused or failed");
            CallToolResult::error(vec![ContentBlock::text(error.to_string())])
        })
    }

    async fn create_environment(&self, arguments: JsonObject, call: &Arc<Call>) -> Outcome {
        let CreateEnvironment {
            runtime,
            image,
            name,
            timeout_minutes,
            network,
        } = parse(arguments)?;
        let request = CreateRequest {
            runtime,
            image,
            name,
            timeout_minutes,
            network,
        };
        let created = self.service.create(request, call).await?;
        success(&results::Created::from(created))
    }

    async fn destroy_environment(&self, arguments: JsonObject) -> Outcome {
        let DestroyEnvironment { environment_id } = parse(arguments)?;
        let id = Service::parse_id(&environment_id)?;
        self.service.destroy(&id).await?;
        success(&results::Destroyed::new(&id))
    }

    fn list_environments(&self, arguments: JsonObject) -> Outcome {
        let ListEnvironments {} = parse(arguments)?;
        success(&results::Environments::from(self.service.list()))
    }

    async fn execute(&self, arguments: JsonObject, call: &Arc<Call>) -> Outcome {
        let Execute {
            environment_id,
            code,
            language,
            timeout_seconds,
            stdin,
            env,
            working_directory,
            user,
            max_output_bytes,
            background,
            idempotency_key,
        } = parse(arguments)?;
        let request = ExecuteRequest {
            environment_id,
            code,
            language,
            timeout_seconds,
            stdin,
            env,
            working_directory,
            user,
            max_output_bytes,
            background,
            idempotency_key,
        };
        let keyed = request.idempotency_key.is_some();
        match self.service.execute(request, call).await? {
            Execution::Ended(executed) => {
                let guidance = executed.end.guidance(keyed);
                guided(success(&results::Executed::from(executed))?, guidance)
            }
            Execution::Started(process) => success(&results::Executed::from(process)),
        }
    }

    async fn process(&self, arguments: JsonObject, call: &Call) -> Outcome {
        let Process {
            environment_id,
            action,
            process_id,
            cursor,
            max_output_bytes,
            timeout_seconds,
            input,
            close_input,
            signal,
        } = parse(arguments)?;
        let needed = || process_id.ok_or(CallError::Missing("process_id"));
        let from = ReadFrom {
            cursor,
            max_bytes: max_output_bytes,
            timeout_seconds,
        };
        let (service, environment) = (&self.service, &environment_id);
        let result = match action {
            ProcessAction::List => service.processes(environment)?.into(),
            ProcessAction::Read => service
                .read_process(environment, &needed()?, from, Until::News, call)
                .await?
                .into(),
            ProcessAction::Wait => service
                .read_process(environment, &needed()?, from, Until::End, call)
                .await?
                .into(),
            ProcessAction::Write => service
                .write_process(environment, &needed()?, input, close_input)
                .await?
                .into(),
            ProcessAction::Signal => {
                let signal = signal.ok_or(CallError::Missing("signal"))?;
                service
                    .signal_process(environment, &needed()?, signal)
                    .await?
                    .into()
            }
        };
        success::<results::Process>(&result)
    }

    async fn forward_port(&self, arguments: JsonObject) -> Outcome {
        let ForwardPort {
            environment_id,
            port,
            host_port,
            close,
        } = parse(arguments)?;
        let request = ForwardRequest {
            environment_id,
            port,
            host_port,
            close,
        };
        let forwarded = self.service.forward_port(request).await?;
        success(&results::Forwarded::from(forwarded))
    }

    async fn install_packages(&self, arguments: JsonObject, call: &Call) -> Outcome {
        let InstallPackages {
            environment_id,
            packages,
            timeout_seconds,
        } = parse(arguments)?;
        let Installation {
            executed,
            installed,
            guidance,
        } = self
            .service
            .install_packages(&environment_id, &packages, timeout_seconds, call)
            .await?;
        let result = success(&results::Installed::new(executed, installed))?;
        guided(result, guidance)
    }
}

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("{path}{problem}; the tool's input schema shows what it takes")]
    Argument {
        path: String,
        problem: serde_json::Error,
    },
    #[error("argument {0} is missing: this action needs it")]
    Missing(&'static str),
    #[error("{0}")]
    Service(#[from] ServiceError),
    #[error(
        "the result would have {size} bytes, and MCP clients accept {RESULT_MAX}; ask for less in one call, or for encoding base64 where the tool has it"
    )]
    TooLarge { size: usize },
    #[error("the result could not be encoded")]
    Encode(#[from] serde_json::Error),
}

type Outcome = Result<CallToolResult, CallError>;

fn parse<A: DeserializeOwned>(arguments: JsonObject) -> Result<A, CallError> {
    serde_path_to_error::deserialize(serde_json::Value::Object(arguments)).map_err(|error| {
        // A missing or surplus argument has no path; its text names it.
        let path = match error.path().to_string().as_str() {
            "." => String::new(),
            path => format!("argument {path}: "),
        };
        CallError::Argument {
            path,
            problem: error.into_inner(),
        }
    })
}

fn success<R: Serialize>(result: &R) -> Outcome {
    structured(result, None)
}

/// A result with its text copy: `text`, or the same as JSON.
fn structured<R: Serialize>(result: &R, text: Option<String>) -> Outcome {
    let value = serde_json::to_value(result)?;
    let json = value.to_string();
    let length = json.len();
    let text = text.unwrap_or(json);
    // The text is escaped once more when it is sent.
    let size = length + json_length(&text);
    if size > RESULT_MAX {
        return Err(CallError::TooLarge { size });
    }
    let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
    result.structured_content = Some(value);
    Ok(result)
}

/// Bytes of `value` as JSON, which is written nowhere.
fn json_length<T: Serialize + ?Sized>(value: &T) -> usize {
    struct Counter(usize);
    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    // The results hold nothing that JSON has not.
    let _ = serde_json::to_writer(&mut counter, value);
    counter.0
}

/// Turns a result into an error that says what to do next, with the result still in it.
fn guided(mut result: CallToolResult, guidance: Option<String>) -> Outcome {
    if let Some(guidance) = guidance {
        result.content.insert(0, ContentBlock::text(guidance));
        result.is_error = Some(true);
    }
    Ok(result)
}

/// Whether a cancelled call was taken back by a message that says so. In a request without a session the
/// end of the connection means the same, but there it may as well be an accident.
fn was_taken_back(context: &RequestContext<RoleServer>) -> bool {
    let http = context.extensions.get::<axum::http::request::Parts>();
    http.is_none_or(|parts| parts.headers.contains_key(HEADER_SESSION_ID))
}

fn identity() -> Implementation {
    let mut server = Implementation::new("waggle", env!("CARGO_PKG_VERSION"));
    server.title = Some("Waggle".to_owned());
    server
}

/// Whether the request is of a revision without handshake and sessions. Only those name theirs in
/// each request.
fn is_stateless(context: &RequestContext<RoleServer>) -> bool {
    let revision = context.meta.protocol_version();
    revision.is_some_and(|revision| revision >= ProtocolVersion::V_2026_07_28)
}

impl ServerHandler for Handler {
    fn get_info(&self) -> ServerConfig {
        let mut info = ServerConfig::new(ServerCapabilities::builder().enable_tools().build());
        info.server_info = identity();
        info.instructions = Some(INSTRUCTIONS.to_owned());
        info
    }

    async fn discover(&self, _: RequestContext<RoleServer>) -> Result<DiscoverResult, ErrorData> {
        let revisions = self.supported_protocol_versions().into_owned();
        // It is signed there.
        let result = DiscoverResult::from_server_info(revisions, self.get_info());
        Ok(result
            .with_ttl_ms(FRESH_MS)
            .with_cache_scope(CacheScope::Public))
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        if let Some(cursor) = request.and_then(|request| request.cursor) {
            let text = format!("no cursor {cursor:?}; the list of tools has one page");
            return Err(ErrorData::invalid_params(text, None));
        }
        // The schemas are shared, so this copies a few words for each tool.
        let mut result = ListToolsResult::with_all_items(self.tools.as_ref().clone());
        if is_stateless(&context) {
            result.ttl_ms = Some(FRESH_MS);
            result.cache_scope = Some(CacheScope::Public);
        }
        self.sign(&mut result.meta, &context);
        Ok(result)
    }

    /// rmcp takes a request whose parameters it cannot read for one with an unknown method.
    async fn on_custom_request(
        &self,
        request: CustomRequest,
        _: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        let method = request.method;
        if KNOWN_METHODS.contains(&method.as_str()) {
            let text = format!("the parameters of {method} are not those of its schema in MCP");
            return Err(ErrorData::invalid_params(text, None));
        }
        Err(ErrorData::new(ErrorCode::METHOD_NOT_FOUND, method, None))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let Some(name) = Name::parse(&request.name) else {
            let asked: String = request.name.chars().take(64).collect();
            let text = format!("no tool {asked:?}; tools/list names those there are");
            return Err(ErrorData::invalid_params(text, None));
        };
        let call = Arc::new(Call::default());
        let work = self.dispatch(name, request.arguments.unwrap_or_default(), &call);
        let given_up = async {
            context.ct.cancelled().await;
            // Before the operation is dropped, which asks for it.
            if was_taken_back(&context) {
                call.cancelled.cancel();
            }
        };
        tokio::select! {
            mut result = progress::reported(work, &call, &context) => {
                self.sign(&mut result.meta, &context);
                Ok(result.into())
            }
            // Dropping the operation ends it: a program is killed, a boot is stopped.
            () = given_up => {
                Err(ErrorData::internal_error("the call was cancelled by the client", None))
            }
        }
    }

    // rmcp's defaults for these are empty successes, which would claim features that are not there.

    async fn complete(
        &self,
        _: CompleteRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        Err(ErrorData::method_not_found::<CompleteRequestMethod>())
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        Err(ErrorData::method_not_found::<ListPromptsRequestMethod>())
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        Err(ErrorData::method_not_found::<ListResourcesRequestMethod>())
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        Err(ErrorData::method_not_found::<
            ListResourceTemplatesRequestMethod,
        >())
    }
}
