"""How the server is reached: over stdin and stdout, or over HTTP on loopback with a token.

In: a desk. Out: a served protocol until the client goes, or SIGTERM or Ctrl-C; then all runs are given back. Left to
others: the tools (`server`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from kernelevolve import UsageError
from kernelevolve.mcp.desk import Desk

TOKEN = "KERNELEVOLVE_MCP_TOKEN"
HOST = "127.0.0.1"
PATH = "/mcp"
_LEAST_TOKEN = 16
_LONGEST_LINE = 64 << 20
_STARTING = 0.02  # seconds between looks
_GRACE = 3  # seconds for open streams to end


async def serve_stdio(made: MCPServer[Any], desk: Desk) -> None:
    """Serves one client on stdin and stdout until end of file, SIGTERM or Ctrl-C."""
    serving = asyncio.create_task(_on_stdio(made))
    with _stopped_by_signals(serving.cancel):
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await serving
        finally:
            await desk.close()


async def serve_http(made: MCPServer[Any], desk: Desk, port: int, token: str, ready: Callable[[str], None]) -> None:
    """Serves many clients over streamable HTTP on loopback until SIGTERM or Ctrl-C.

    Args:
        port: 0 for any that is free.
        ready: called with the address once it listens.

    Raises:
        UsageError: the port is taken, or the token is too short.
    """
    if len(token) < _LEAST_TOKEN:
        raise UsageError(f"the token in {TOKEN} has {len(token)} characters; give at least {_LEAST_TOKEN}, or none")
    with _listening(port) as listener:
        port = listener.getsockname()[1]
        app = made.streamable_http_app(streamable_http_path=PATH, host=HOST, transport_security=_same_host(port))
        config = uvicorn.Config(
            guarded(app, token), log_config=None, access_log=False, timeout_graceful_shutdown=_GRACE, lifespan="on"
        )
        http = _Server(config)

        ending = asyncio.Event()

        async def end() -> None:
            await ending.wait()
            await desk.close()  # calls that wait for a verdict are answered before the connections end
            http.should_exit = True

        with _stopped_by_signals(ending.set):
            closing = asyncio.create_task(end())
            try:
                serving = asyncio.create_task(http.serve(sockets=[listener]))
                while not http.started and not serving.done():
                    await asyncio.sleep(_STARTING)
                if http.started:
                    ready(f"http://{HOST}:{port}{PATH}")
                await serving
            finally:
                ending.set()
                await closing


def new_token() -> tuple[str, bool]:
    """The token from the environment, or a new one; and whether it is new."""
    known = os.environ.get(TOKEN, "")
    return (known, False) if known else (secrets.token_urlsafe(24), True)


def guarded(app: ASGIApp, token: str) -> ASGIApp:
    """`app` for those who send `Authorization: Bearer TOKEN`; 401 for all others."""
    expected = f"Bearer {token}".encode()

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            sent = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(sent, expected):
                said = f"send the header Authorization: Bearer TOKEN; the server printed it, or has it from {TOKEN}"
                refused = JSONResponse({"error": "wrong or missing token", "next": said}, 401)
                await refused(scope, receive, send)
                return
        await app(scope, receive, send)

    return guard


class _Server(uvicorn.Server):
    """Leaves signals to `serve_http`: uvicorn's own handling would end the process before the runs are given back."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


@contextlib.contextmanager
def _stopped_by_signals(stop: Callable[[], Any]) -> Any:
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    with contextlib.suppress(RuntimeError, ValueError):  # only the main thread can have signal handlers
        for number in numbers:
            loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        with contextlib.suppress(RuntimeError, ValueError):
            for number in numbers:
                loop.remove_signal_handler(number)


@contextlib.contextmanager
def _listening(port: int) -> Any:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise UsageError(f"port {port} of {HOST} cannot be had: {error.strerror}; give another: --port") from error
        yield listener


def _same_host(port: int) -> TransportSecuritySettings:
    """Against DNS rebinding: a page of another origin must not reach the server under a name that leads here."""
    hosts = [f"{name}:{port}" for name in (HOST, "localhost")]
    return TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=[f"http://{host}" for host in hosts])


async def _on_stdio(made: MCPServer[Any]) -> None:
    async with _stdin_lines() as lines, stdio_server(stdin=lines) as (read, write):
        server = made._lowlevel_server
        await server.run(read, write, server.create_initialization_options())


@contextlib.asynccontextmanager
async def _stdin_lines() -> AsyncIterator[Any]:
    """The lines of stdin, read without a thread: one that waits for a line cannot be stopped by a signal.

    Meanwhile file descriptor 0 is empty, so that no child reads the protocol. None where stdin cannot be waited for,
    such as a file: the protocol's own reader takes it.
    """
    loop = asyncio.get_running_loop()
    kept = os.dup(0)
    reader = asyncio.StreamReader(limit=_LONGEST_LINE)
    pipe = os.fdopen(kept, "rb", buffering=0)
    try:
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    except ValueError:
        pipe.close()
        yield None
        return
    with open(os.devnull, "rb") as empty:
        os.dup2(empty.fileno(), 0)

    async def lines() -> AsyncIterator[str]:
        while line := await reader.readline():
            yield line.decode("utf-8", "replace")

    try:
        yield lines()
    finally:
        transport.close()


def say(text: str) -> None:
    """Tells people, on stderr."""
    print(text, file=sys.stderr, flush=True)
