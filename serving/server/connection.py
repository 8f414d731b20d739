"""The sockets of HTTP: listening, and connections that are given up where nothing moves."""

import asyncio
import contextlib
import functools
import os
import resource
import socket
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .logs import log
from .security import Tls

HEAD_BYTES = 2**15  # of a request
HANDSHAKE_SECONDS = 10  # of TLS; connections are counted after it
HEAD_SECONDS = 30  # a request whose head is not whole by then is given up
WRITE_SECONDS = 20  # so is an answer of which nothing was read for as long
BACKLOG = 128  # connections that are accepted in one turn of the event loop, before any is counted
SPARE_FILES = 2 * BACKLOG  # that connections leave to these and to the rest of the process


class Connection(H11Protocol):
    """uvicorn's connection, given up where a request's head does not arrive or its answer is not read.

    Where there are too many, the one gives way that has been idle for the longest time.
    """

    half = False  # a head was incomplete at the last look
    unread = 0  # bytes of an answer at the last look

    def __init__(self, *arguments: Any, max_connections: int = 1000, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.max_connections = max_connections

    def connection_made(self, transport: Any) -> None:
        """Make room, and begin to look now and then whether something moves."""
        super().connection_made(transport)
        self.active = self.loop.time()
        self.loop.call_later(HEAD_SECONDS, self.look_at_head)
        self.loop.call_later(WRITE_SECONDS, self.look_at_answer)
        if len(self.connections) > self.max_connections:
            say_full(self.max_connections)
            idle = [connection for connection in self.connections if connection.idle]
            min(idle, key=lambda connection: connection.active, default=self).transport.abort()

    @property
    def idle(self) -> bool:
        """Whether it is open and nothing is asked."""
        return not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete)

    def data_received(self, data: bytes) -> None:
        """Take note of the time."""
        self.active = self.loop.time()
        super().data_received(data)

    def look_at_head(self) -> None:
        """Close the connection where a head, or the first one, has been awaited since the last look."""
        if self.transport.is_closing():
            return
        awaited = self.cycle is None or (
            self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        )
        if awaited and (self.half or self.cycle is None):
            self.transport.close()
            return
        self.half = awaited
        self.loop.call_later(HEAD_SECONDS, self.look_at_head)

    def look_at_answer(self) -> None:
        """Close the connection where as much of an answer is unread as at the last look."""
        unread = self.transport.get_write_buffer_size()
        if unread and unread == self.unread:
            self.transport.abort()
        if self in self.connections:
            self.unread = unread
            self.loop.call_later(WRITE_SECONDS, self.look_at_answer)


class Server(uvicorn.Server):
    """uvicorn's server, stopped by us instead of by its own signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """Leave the signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; handshakes have less time than asyncio's minute, for which uvicorn has no option."""
        await super().startup([])  # all of it but listening
        protocol = functools.partial(
            self.config.http_protocol_class,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        self.servers = [
            await asyncio.get_running_loop().create_server(
                protocol,
                sock=at,
                backlog=self.config.backlog,
                ssl=self.config.ssl,
                ssl_handshake_timeout=HANDSHAKE_SECONDS if self.config.ssl else None,
            )
            for at in sockets or ()
        ]


def http_server(
    app: Any,
    *,
    grace: int = 30,
    keep_alive: int = 75,
    max_connections: int = 1000,
    tls: Tls | None = None,
) -> Server:
    """Return a server of an ASGI application."""
    config = uvicorn.Config(
        app,
        http=functools.partial(Connection, max_connections=max_connections),
        ws="none",
        backlog=BACKLOG,
        h11_max_incomplete_event_size=HEAD_BYTES,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_keep_alive=keep_alive,
        timeout_graceful_shutdown=grace,
        server_header=False,
        **(tls.uvicorn() if tls else {}),
    )
    return Server(config)


@functools.cache
def say_full(count: int) -> None:
    """Say once that there are too many connections."""
    log.warning("too many connections", extra={"most": count})


def raise_file_limit(wanted: int) -> int:
    """Raise the process's limit of open files where it may; return for how many connections it is enough."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - SPARE_FILES))


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens, whose connections send small packets at once.

    Raises:
        OSError: the address is taken, or not one of this machine.
    """
    try:
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=1024
        )
    except OSError as error:
        # create_server says the address too, in its own way.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise OSError(error.errno, reason, address(host, port)) from None
    # asyncio does so only for sockets that name their protocol, which create_server's do not.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def address(host: str, port: int) -> str:
    """Return HOST:PORT as URLs have it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
