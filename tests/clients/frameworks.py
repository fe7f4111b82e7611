#!/usr/bin/env python3
# SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
# SPDX-License-Identifier: Apache-2.0
"""Agent frameworks' own MCP clients, without a model: each lists the tools and calls `execute` once.

    frameworks.py fastmcp|langchain|openai-agents|pydantic-ai URL ENVIRONMENT CODE

Writes one line, {"version", "tools": [NAME...], "answer": TEXT}, where the answer is what the framework
would hand to its model.
"""

import asyncio
import importlib.metadata
import json
import sys

# The frameworks' own limits are for servers that answer at once: openai-agents gives up after 5 seconds.
PATIENCE = 120


async def fastmcp(url, arguments):
    from fastmcp.client import Client

    async with Client(url, timeout=PATIENCE) as client:
        tools = await client.list_tools()
        result = await client.call_tool("execute", arguments)
        return [tool.name for tool in tools], result.structured_content


async def langchain(url, arguments):
    from langchain_mcp_adapters.client import MultiServerMCPClient

    client = MultiServerMCPClient({"waggle": {"transport": "http", "url": url}})
    tools = {tool.name: tool for tool in await client.get_tools()}
    # Its tools carry the schema that a model would be given.
    assert tools["execute"].args["code"]["type"] == "string", tools["execute"].args
    return list(tools), await tools["execute"].ainvoke(arguments)


async def openai_agents(url, arguments):
    from agents.mcp import MCPServerStreamableHttp, MCPUtil

    async with MCPServerStreamableHttp(
        {"url": url}, client_session_timeout_seconds=PATIENCE
    ) as server:
        tools = await server.list_tools()
        for tool in tools:
            # Its models' dialect of JSON Schema is stricter than most.
            MCPUtil.to_function_tool(tool, server, convert_schemas_to_strict=True)
        result = await server.call_tool("execute", arguments)
        return [tool.name for tool in tools], [content.text for content in result.content]


async def pydantic_ai(url, arguments):
    from pydantic_ai.mcp import MCPToolset

    async with MCPToolset(url, read_timeout=PATIENCE) as server:
        tools = await server.list_tools()
        result = await server.direct_call_tool("execute", arguments)
        return [tool.name for tool in tools], result


FRAMEWORKS = {
    "fastmcp": ("fastmcp-slim", fastmcp),
    "langchain": ("langchain-mcp-adapters", langchain),
    "openai-agents": ("openai-agents", openai_agents),
    "pydantic-ai": ("pydantic-ai-slim", pydantic_ai),
}


def main():
    if len(sys.argv) != 5 or sys.argv[1] not in FRAMEWORKS:
        sys.exit(__doc__)
    package, run = FRAMEWORKS[sys.argv[1]]
    url, environment, code = sys.argv[2:]
    tools, answer = asyncio.run(run(url, {"environment_id": environment, "code": code}))
    version = importlib.metadata.version(package)
    print(json.dumps({"version": version, "tools": tools, "answer": json.dumps(answer, default=str)}))


main()
