"""Around every HTTP request: what is refused before it is read, what is given up, and a line of log."""

import asyncio
import ipaddress
import time
import uuid
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect

from ...errors import FormatError, InputError, TooLargeError
from ..protocols import Limits
from ..requests import RequestError
from .answers import json_answer, refusal
from .app import LIVE, PAGE, READY
from .connection import HEAD_BYTES
from .metrics import Metrics
from .model import Model
from .options import Options
from .security import check_token

# The last is what `curl -d` says of any text; TF Serving takes that too.
JSON_TYPES = ("", "application/json", "application/octet-stream", "application/x-www-form-urlencoded")
BODY_BYTES, BODY_SECONDS = 2**16, 10  # as many have to arrive in any such time
HELD = 8  # bodies of the largest size that are held at once; small ones do not count
OPEN = {LIVE, READY, *PAGE}  # to probes, which have no token, and to the page, which asks for one
TIMEOUT = b"x-request-timeout"  # seconds, in a request's head


class LimitsMiddleware:
    """Answers requests within the limits of `model.options`, and logs them.

    Args:
        app: an ASGI application.
        model: which says whether the server drains.
        metrics: counts requests.
        tokens: of which a request has to have one, if there are any.
    """

    def __init__(self, app: Callable, model: Model, metrics: Metrics, tokens: tuple[str, ...] = ()) -> None:
        self.app, self.model, self.metrics, self.tokens = app, model, metrics, tokens
        self.held = 0  # bytes of large bodies whose requests have not been answered

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Answer one request."""
        await Exchange(self, scope, receive, send).run()


class Exchange:
    """One request and its answer."""

    def __init__(self, middleware: LimitsMiddleware, scope: dict, receive: Callable, send: Callable) -> None:
        self.middleware, self.scope, self._receive, self._send = middleware, scope, receive, send
        self.model, self.options = middleware.model, middleware.model.options
        self.headers = {key.lower(): value.decode("latin-1") for key, value in scope["headers"]}
        self.identity = self.headers.get(b"x-request-id", "")[:64] or str(uuid.uuid4())
        self.began = self.progress = time.monotonic()  # since when BODY_BYTES are awaited
        self.received = self.counted = self.held = 0
        self.whole = asyncio.Event()  # the body is there
        self.cut = self.left = self.started = False
        self.status = 500

    async def run(self) -> None:
        """Answer."""
        task, fault = asyncio.current_task(), None
        watching = asyncio.create_task(self.watch(task))
        try:
            check_head(self.scope, self.headers, self.options.limits)
            check_names(self.scope, self.headers, self.options)
            if self.scope["path"] not in OPEN:
                check_token(self.headers.get(b"authorization", ""), self.middleware.tokens)
            seconds = self.seconds()
            try:
                async with asyncio.timeout(seconds):
                    await self.middleware.app(self.scope, self.receive, self.send)
            except TimeoutError:
                raise RequestError(f"request: not answered in {seconds:g} s", 504) from None
        except asyncio.CancelledError:
            if self.left:
                self.status = 499
            elif not self.started:  # --grace is over
                await self.answer(json_answer({"error": "the server is stopping"}, 503, {"retry-after": "1"}))
        except Exception as error:
            fault = None if isinstance(error, InputError) else error
            if not self.started:
                await self.answer(refusal(error))
        finally:
            watching.cancel()
            self.middleware.held -= self.held
            route = getattr(self.scope.get("route"), "path", "none")
            more = {"id": self.identity, "method": self.scope["method"], "bytes": self.received}
            self.middleware.metrics.request(route, self.status, self.began, fault, **more)

    async def watch(self, task: asyncio.Task) -> None:
        """Cancel the task when the client leaves after its request is whole."""
        await self.whole.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.left = True
        task.cancel()

    def seconds(self) -> float:
        """Return the seconds that the request may take."""
        wanted = self.headers.get(TIMEOUT)
        if wanted is None:
            return self.options.timeout
        try:
            if not float(wanted) > 0:
                raise ValueError
        except ValueError:
            raise InputError(f"{TIMEOUT.decode()}: expected seconds. Received: {wanted[:32]}") from None
        return min(float(wanted), self.options.timeout)

    async def receive(self) -> dict:
        """Return the next part of the body, which has to go on and may not be too long."""
        self.cut = True  # unless what follows goes well
        try:
            message = await asyncio.wait_for(
                self._receive(), max(0, self.progress + BODY_SECONDS - time.monotonic())
            )
        except TimeoutError:
            raise RequestError(
                f"request: {BODY_BYTES} bytes of its body took more than {BODY_SECONDS} s", 408
            ) from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        limits = self.options.limits
        self.received += len(message.get("body", b""))
        if self.received > limits.max_bytes:
            raise too_long(limits)
        if self.received > limits.small:
            self.middleware.held += self.received - self.held
            self.held = self.received
            if self.middleware.held > HELD * limits.max_bytes:
                raise RequestError("too many requests: try again", 503)
        if self.received - self.counted >= BODY_BYTES:
            self.counted, self.progress = self.received, time.monotonic()
        if not message.get("more_body", False):
            self.whole.set()
        self.cut = False
        return message

    async def send(self, message: dict) -> None:
        """Send a part of the answer, its head with the request's identity."""
        if message["type"] == "http.response.start":
            self.status, self.started = message["status"], True
            extra = [(b"x-request-id", self.identity.encode("latin-1"))]
            if self.model.draining or self.cut or self.status == 413:
                extra.append((b"connection", b"close"))
            message = {**message, "headers": [*message["headers"], *extra]}
        await self._send(message)

    def answer(self, response: Callable) -> Awaitable[None]:
        """Send a whole answer."""
        return response(self.scope, self._receive, self.send)


def check_head(scope: dict, headers: dict[bytes, str], limits: Limits) -> None:
    """Refuse by the head alone what is too long, or of a kind that is not read."""
    if sum(len(key) + len(value) for key, value in scope["headers"]) > HEAD_BYTES:
        raise RequestError(f"request: expected at most {HEAD_BYTES} bytes of headers", 431)
    if scope["method"] not in ("POST", "PUT", "PATCH"):
        return
    length = headers.get(b"content-length", "0")
    if length.isdecimal() and int(length) > limits.max_bytes:
        raise too_long(limits)
    kind = headers.get(b"content-type", "").partition(";")[0].strip().lower()
    if kind not in JSON_TYPES:
        raise FormatError(
            f"content-type: expected application/json, with image files in base64. Received: {kind[:64]}"
        )
    coding = headers.get(b"content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise FormatError(f"content-encoding: expected none. Received: {coding[:64]}")


def check_names(scope: dict, headers: dict[bytes, str], options: Options) -> None:
    """Refuse a name that is not one of this server's, and what the page of another server sends."""
    host, origin = headers.get(b"host", ""), headers.get(b"origin")
    if not known(
        host, ("", "localhost", options.host, options.metrics_host, *options.allow_host), addresses=True
    ):
        raise RequestError(
            f"host: expected an address, or a name that --allow-host gives. Received: {host[:64]}", 421
        )
    if scope["method"] != "POST" or origin is None or origin.partition("://")[2] == host:
        return
    if not known(origin.partition("://")[2], options.allow_host, addresses=False):
        raise RequestError(f"origin: expected none, or this server's. Received: {origin[:64]}", 403)


def known(host: str, names: tuple[str, ...], *, addresses: bool) -> bool:
    """Return whether a host, with a port or without, has one of the names, or, if wanted, is an address."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name in names or "*" in names:
            return True
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return addresses


def too_long(limits: Limits) -> TooLargeError:
    """Return the error of a body beyond the limit."""
    return TooLargeError(f"request: expected at most {limits.max_bytes} bytes")
