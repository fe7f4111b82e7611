#!/usr/bin/env python3
# SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
# SPDX-License-Identifier: Apache-2.0
"""The official Python MCP client, driven line by line by the Rust tests.

    driver.py http URL
    driver.py stdio COMMAND [ARGUMENT...]

Connects as any user of the SDK would (PyPI `mcp` 2.x by its `Client`, 1.x by its `ClientSession`),
then writes one line {"ready": {"sdk", "protocol"}}. After that, each line of standard input

    {"id": N, "op": "list_tools"}
    {"id": N, "op": "call", "tool": NAME, "arguments": {...}, "timeout": SECONDS, "progress": BOOL}
    {"id": N, "op": "cancel", "call": N}

is answered by one line of standard output, {"id": N, "result": {...}} with the SDK's result as the
protocol spells it, or {"id": N, "error": {"kind", "code", "message"}}. Calls run side by side, so
answers come in any order. With "progress", what the SDK reports of a call under way comes as lines
{"id": N, "progress": {"progress", "total", "message"}}; what it says of messages that it cannot
place, as lines {"complaint": TEXT}. A call that is cancelled answers with an error of kind
"cancelled". The end of standard input closes the session.

driver.mjs is the same for npm's SDKs.
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


async def on_message(message):
    if isinstance(message, Exception):
        say({"complaint": str(message)})


@contextlib.asynccontextmanager
async def connect(transport, target):
    """Yields the session and the protocol version it agreed on."""
    if MODERN:
        from mcp import Client, StdioServerParameters

        server = target[0]
        if transport == "stdio":
            server = StdioServerParameters(command=target[0], args=target[1:], env=dict(os.environ))
        async with Client(server, message_handler=on_message) as client:
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
    async with (
        streams as (read, write, *_),
        ClientSession(read, write, message_handler=on_message) as session,
    ):
        answer = await session.initialize()
        yield session, answer.protocolVersion


async def perform(session, request, running):
    if request["op"] == "list_tools":
        return as_json(await session.list_tools())
    if request["op"] == "call":
        timeout = request.get("timeout", 240)
        if not MODERN:
            timeout = datetime.timedelta(seconds=timeout)
            # Only its sender knows a request's id, and this SDK tells it nowhere else.
            running[request["id"]].request_id = session._request_id

        async def on_progress(progress, total, message):
            report = {"progress": progress, "total": total, "message": message}
            say({"id": request["id"], "progress": report})

        result = await session.call_tool(
            request["tool"],
            request.get("arguments"),
            read_timeout_seconds=timeout,
            progress_callback=on_progress if request.get("progress") else None,
        )
        return as_json(result)
    if request["op"] == "cancel":
        call = running.get(request["call"])
        if call is None:
            raise ValueError("that call is over")
        if not MODERN:
            # 1.x forgets a call that is given up without a word to the server.
            from mcp.types import CancelledNotification, ClientNotification

            notice = {
                "method": "notifications/cancelled",
                "params": {"requestId": call.request_id, "reason": "the test wants so"},
            }
            await session.send_notification(
                ClientNotification(CancelledNotification.model_validate(notice))
            )
        call.given_up = True
        call.task.cancel()
        return {}
    raise ValueError(f"unknown op {request['op']!r}")


class Running:
    """A request under way."""

    def __init__(self):
        self.task = None
        self.request_id = None
        self.given_up = False


async def answer(session, request, running):
    try:
        say({"id": request["id"], "result": await perform(session, request, running)})
    except asyncio.CancelledError:
        if running[request["id"]].given_up:
            say({"id": request["id"], "error": {"kind": "cancelled", "code": None, "message": ""}})
        raise
    except Exception as error:  # whatever the SDK raises is the answer
        say({"id": request["id"], "error": as_error(error)})
    finally:
        del running[request["id"]]


async def main():
    if len(sys.argv) < 3 or sys.argv[1] not in ("http", "stdio"):
        sys.exit(__doc__)
    lines = asyncio.StreamReader(limit=LINE_MAX)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)

    running = {}
    async with connect(sys.argv[1], sys.argv[2:]) as (session, protocol):
        say({"ready": {"sdk": SDK, "protocol": protocol}})
        while line := await lines.readline():
            request = json.loads(line)
            entry = running[request["id"]] = Running()
            entry.task = asyncio.create_task(answer(session, request, running))
        for entry in running.values():
            entry.task.cancel()


asyncio.run(main())
