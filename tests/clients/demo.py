#!/usr/bin/env python3
# SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
# SPDX-License-Identifier: Apache-2.0
"""What `./dev demo` ends with: the official Python MCP client has a microVM run a Python program.

    demo.py WAGGLE

Starts `WAGGLE mcp` as any MCP client would, over stdio, creates a Python environment, runs a
program in it twice, destroys it, and says how long each step took. Exits 0 only if every step did
what it should. Needs PyPI's `mcp` 2.x.
"""

import asyncio
import json
import os
import sys
import time

from mcp import Client, MCPError, StdioServerParameters

PROGRAM = '''\
import os, platform, sys

def primes(limit):
    """The sieve of Eratosthenes."""
    sieve = bytearray([1]) * (limit + 1)
    sieve[0:2] = b"\\0\\0"
    for n in range(2, int(limit ** 0.5) + 1):
        if sieve[n]:
            sieve[n * n :: n] = bytes(len(range(n * n, limit + 1, n)))
    return [n for n, prime in enumerate(sieve) if prime]

found = primes(100_000)
print(f"Hello from Python {platform.python_version()} on {platform.system()} {platform.release()}")
print(f"I am uid {os.getuid()} in a machine of my own, called {platform.node()!r}")
print(f"There are {len(found)} primes below 100,000; the last is {found[-1]}")
print("and this line went to stderr", file=sys.stderr)
'''
EXPECTED = "There are 9592 primes below 100,000; the last is 99991"


class Failed(Exception):
    """A step did not do what it should; the text says which and why."""


def fields(name, result):
    """A tool result's fields, which come structured and, for older clients, as JSON text."""
    text = "\n".join(block.text for block in result.content if block.type == "text")
    if result.is_error:
        raise Failed(f"{name}: {text}")
    return result.structured_content or json.loads(text)


class Clock:
    """Runs steps and remembers how long each took."""

    def __init__(self):
        self.steps = []

    async def step(self, name, awaitable):
        print(f"    ... {name}", flush=True)
        start = time.perf_counter()
        result = await awaitable
        self.steps.append((name, time.perf_counter() - start))
        return result

    def report(self):
        print("\n    step                              seconds")
        for name, seconds in self.steps:
            print(f"    {name:<32} {seconds:8.3f}")


def show(title, text):
    print(f"    {title}:")
    for line in text.splitlines():
        print(f"      | {line}")


async def demo(waggle):
    # An MCP client hands its server few of its own variables: pass those that are Waggle's.
    passed = {k: v for k, v in os.environ.items() if k.startswith(("WAGGLE_", "XDG_")) or k in ("HOME", "PATH")}
    passed.setdefault("WAGGLE_LOG", "warn")
    server = StdioServerParameters(command=waggle, args=["mcp"], env=passed)
    clock = Clock()
    client = Client(server)

    async def call(name, arguments):
        return fields(name, await client.call_tool(name, arguments, read_timeout_seconds=300))

    await clock.step("start the server", client.__aenter__())
    try:
        created = await clock.step("create an environment", call("create_environment", {"runtime": "python", "name": "demo"}))
        environment = created["environment_id"]
        print(f"    environment {environment}: {created['status']}")
        run = {"environment_id": environment, "code": PROGRAM}
        first = await clock.step("execute the program", call("execute", run))
        second = await clock.step("execute it again", call("execute", run))
        show("stdout", first["stdout"])
        show("stderr", first["stderr"])
        print(f"    exit code: {first['exit_code']}")
        destroyed = await clock.step("destroy the environment", call("destroy_environment", {"environment_id": environment}))
        print(f"    {destroyed['message']}")
    finally:
        await clock.step("stop the server", client.__aexit__(None, None, None))
    clock.report()
    for result in (first, second):
        if result["exit_code"] != 0 or EXPECTED not in result["stdout"]:
            raise Failed(f"the program's result is not the expected one: {result}")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        asyncio.run(demo(sys.argv[1]))
    except (Failed, MCPError, OSError) as failure:
        sys.exit(f"demo: {failure}")


if __name__ == "__main__":
    main()
