#!/usr/bin/env node
// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0
//
// The official JavaScript MCP clients, driven line by line by the Rust tests:
//
//     driver.mjs FOLDER client|sdk http URL
//     driver.mjs FOLDER client|sdk stdio COMMAND [ARGUMENT...]
//
// FOLDER has node_modules with npm's `@modelcontextprotocol/client` (2.x) and `.../sdk` (1.x). The
// lines are those of driver.py.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const [folder, sdk, kind, ...target] = process.argv.slice(2);
const require = createRequire(`${folder}/package.json`);
const modern = sdk === "client";

function say(message) {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

function classes() {
  if (modern) {
    const { StdioClientTransport } = require("@modelcontextprotocol/client/stdio");
    return { ...require("@modelcontextprotocol/client"), StdioClientTransport };
  }
  return {
    ...require("@modelcontextprotocol/sdk/client/index.js"),
    ...require("@modelcontextprotocol/sdk/client/stdio.js"),
    ...require("@modelcontextprotocol/sdk/client/streamableHttp.js"),
  };
}

const { Client, StdioClientTransport, StreamableHTTPClientTransport } = classes();
// 2.x speaks the newest revision only to who asks for it.
const options = modern ? { versionNegotiation: { mode: "auto" } } : {};
const client = new Client({ name: "waggle-tests", version: "0" }, options);
client.onerror = (error) => say({ complaint: error.message });
const transport =
  kind === "stdio"
    ? new StdioClientTransport({
        command: target[0],
        args: target.slice(1),
        env: process.env,
        stderr: "inherit",
      })
    : new StreamableHTTPClientTransport(new URL(target[0]));
let protocol;
if (!modern) {
  // 1.x tells the version to its transport alone.
  const pass = transport.setProtocolVersion?.bind(transport);
  transport.setProtocolVersion = (version) => {
    protocol = version;
    pass?.(version);
  };
}
await client.connect(transport);
protocol ??= client.getNegotiatedProtocolVersion();
say({ ready: { sdk, protocol } });

const running = new Map();

async function perform(request) {
  switch (request.op) {
    case "list_tools":
      return client.listTools();
    case "call": {
      const call = new AbortController();
      running.set(request.id, call);
      const params = { name: request.tool, arguments: request.arguments };
      const options = { timeout: (request.timeout ?? 240) * 1000, signal: call.signal };
      if (request.progress) {
        options.onprogress = (progress) => say({ id: request.id, progress });
      }
      return modern ? client.callTool(params, options) : client.callTool(params, undefined, options);
    }
    case "cancel":
      if (!running.has(request.call)) throw new Error("that call is over");
      running.get(request.call).abort(new Error("the test wants so"));
      return {};
    default:
      throw new Error(`unknown op ${request.op}`);
  }
}

async function answer(request) {
  try {
    say({ id: request.id, result: await perform(request) });
  } catch (error) {
    const kind = running.get(request.id)?.signal.aborted ? "cancelled" : error.name;
    // 2.x names its own errors by words, which are no JSON-RPC codes.
    const code = typeof error.code === "number" ? error.code : null;
    say({ id: request.id, error: { kind, code, message: `${error.code ?? ""} ${error.message}`.trim() } });
  } finally {
    running.delete(request.id);
  }
}

for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
  answer(JSON.parse(line));
}
if (kind === "http") await transport.terminateSession();
await client.close();
