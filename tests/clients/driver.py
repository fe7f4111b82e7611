#!/usr/bin/env python3
# SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
# SPDX-License-Identifier: Apache-2.0
"""The official Python MCP client, driven line by line by the Rust tests.

    driver.py http URL
    driver.py stdio COMMAND [ARGUMENT...]

Connects as any user of the SDK would (PyPI `mcp` 2.x by its `Client`, 1.x by its `ClientSession`),
then writes one line {"ready": {"sdk", "protocol"}}. After that, each line of standard input

    {"id": N, "op": "list_tools"}
    {"id": N, "op": "call", "tool": NAME, "arguments": {...}, "timeout": SECONDS}

is answered by one line of standard output, {"id": N, "result": {...}} with the SDK's result as the
protocol spells it, or {"id": N, "error": {"kind", "code", "message"}}. Calls run side by side, so
answers come in any order. The end of standard input closes the session.
"""

import asyncio
import contextlib
import datetime
import importlib.metadata
import json
import os
import sys

SDK = importlib.metadata.version("mcp")
MODERN = not SDK.startswith("1.")
# A request carries up to 512,000 bytes of code, or a file in base64.
LINE_MAX = 64 * 1024 * 1024


def say(message):
    """Writes one line; every line in one write, so that answers never interleave."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def as_json(model):
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


def as_error(error):
    data = getattr(error, "error", None)
    return {
        "kind": type(error).__name__,
        "code": getattr(data, "code", None),
        "message": getattr(data, "message", None) or str(error),
    }


@contextlib.asynccontextmanager
async def connect(transport, target):
    """Yields the session and the protocol version it agreed on."""
    if MODERN:
        from mcp import Client, StdioServerParameters

        server = target[0]
        if transport == "stdio":
            server = StdioServerParameters(command=target[0], args=target[1:], env=dict(os.environ))
        async with Client(server) as client:
            yield client, client.protocol_version
        return

    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client
    from mcp.client.streamable_http import streamable_http_client

    if transport == "stdio":
        parameters = StdioServerParameters(command=target[0], args=target[1:], env=dict(os.environ))
        streams = stdio_client(parameters)
    else:
        streams = streamable_http_client(target[0])
    async with streams as (read, write, *_), ClientSession(read, write) as session:
        answer = await session.initialize()
        yield session, answer.protocolVersion


async def perform(session, request):
    if request["op"] == "list_tools":
        return await session.list_tools()
    if request["op"] == "call":
        timeout = request.get("timeout", 240)
        if not MODERN:
            timeout = datetime.timedelta(seconds=timeout)
        return await session.call_tool(
            request["tool"], request.get("arguments"), read_timeout_seconds=timeout
        )
    raise ValueError(f"unknown op {request['op']!r}")


async def answer(session, request):
    try:
        say({"id": request["id"], "result": as_json(await perform(session, request))})
    except Exception as error:  # whatever the SDK raises is the answer
        say({"id": request["id"], "error": as_error(error)})


async def main():
    if len(sys.argv) < 3 or sys.argv[1] not in ("http", "stdio"):
        sys.exit(__doc__)
    lines = asyncio.StreamReader(limit=LINE_MAX)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)

    running = set()
    async with connect(sys.argv[1], sys.argv[2:]) as (session, protocol):
        say({"ready": {"sdk": SDK, "protocol": protocol}})
        while line := await lines.readline():
            task = asyncio.create_task(answer(session, json.loads(line)))
            running.add(task)
            task.add_done_callback(running.discard)
        for task in running:
            task.cancel()


asyncio.run(main())
