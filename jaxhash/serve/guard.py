"""What stands before every request: who may ask, how much at a time, and what browsers may do.

Plain ASGI, in one layer, so that a request passes it in microseconds.
"""

import asyncio
import hmac
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.responses import Response

from jaxhash.serve import forms
from jaxhash.serve.errors import Refused
from jaxhash.serve.limits import Limits
from jaxhash.serve.metrics import Metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
COOKIE = "jaxhash_token"
HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
]
log = logging.getLogger("jaxhash.serve")


class _TooMuch(Exception):
    """A body that is larger than allowed, or does not fit beside the others."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Guard:
    """An ASGI application that lets through what is allowed.

    Args:
        app: what answers.
        limits: of bodies and time.
        metrics: to count in.
        token: that clients must show; None for none.
        hosts: names that the service may be called by, where there is no token. Another name
            means that a page on another site had it point here (DNS rebinding).

    Raises:
        ValueError: the token has characters that a header or a cookie cannot carry.

    Example:
        >>> app = Guard(app, limits, metrics, token="secret")  # doctest: +SKIP
    """

    def __init__(
        self,
        app: App,
        limits: Limits,
        metrics: Metrics,
        *,
        token: str | None = None,
        hosts: Iterable[str] = LOOPBACK,
    ) -> None:
        if token is not None and not re.fullmatch(r"[\w.~+/=-]+", token, re.ASCII):
            raise ValueError("a token is of letters, digits and . ~ + / = - _ without spaces")
        self.app = app
        self.limits = limits
        self.metrics = metrics
        self.token = token
        self.hosts = frozenset(hosts)
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        begun, status = time.perf_counter(), 0

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        body = _Body(self, scope, receive)
        try:
            refusal = self._refusal(scope, body)
            if refusal is not None:
                await refusal(scope, receive, send_guarded)
                return
            async with asyncio.timeout(self.limits.seconds):
                await self.app(scope, body.receive, send_guarded)
        except _TooMuch as error:
            self.metrics.refused.labels("body").inc()
            if not status:
                await problem(error.status, str(error))(scope, receive, send_guarded)
        except Refused as error:
            if not status:
                answer = problem(error.status, str(error), error.retry)
                await answer(scope, receive, send_guarded)
        except TimeoutError:
            self.metrics.refused.labels("time").inc()
            if status:
                raise  # half an answer: the server ends the connection
            code = 503 if body.complete else 408
            reason = f"not done within {self.limits.seconds:g} seconds; try again"
            await problem(code, reason)(scope, receive, send_guarded)
        except Exception:
            # The application answers what it knows of; this is a fault of ours.
            log.exception("%s %s", scope["method"], scope["path"])
            if not status:
                reason = "this failed, and the service's log says why"
                await problem(500, reason)(scope, receive, send_guarded)
        finally:
            self.held -= body.size
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - begun)

    def _refusal(self, scope: Scope, body: "_Body") -> Response | None:
        """Why a request is not even looked at."""
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, []).append(value)
        host = headers.get(b"host", [])
        if len(host) != 1:
            return self._no("host", 400, "a request names one host")
        name = _name_of(host[0])
        if self.token is None and name not in self.hosts:
            return self._no("host", 421, f"this is not served under the name {name!r}")
        for origin in headers.get(b"origin", []):
            # A page may ask the host that it came from, and no other.
            if origin.partition(b"://")[2] != host[0]:
                return self._no("origin", 403, "pages of other sites may not ask this service")
        if self.token is not None and scope["path"] != "/health":
            refusal = self._check_token(scope, headers)
            if refusal is not None:
                return refusal
        length = headers.get(b"content-length", [b"0"])[0]
        try:
            body.announce(int(length) if length.isdigit() else 0)
        except _TooMuch as error:
            return self._no("body", error.status, str(error))
        return None

    def _check_token(self, scope: Scope, headers: dict[bytes, list[bytes]]) -> Response | None:
        """None for a client that shows the token, by a header or by the cookie of the page."""
        assert self.token is not None
        given = [
            value.partition(b" ")[2].strip()
            for value in headers.get(b"authorization", [])
            if value[:7].lower() == b"bearer "
        ]
        for cookies in headers.get(b"cookie", []):
            try:
                found = SimpleCookie(cookies.decode("latin-1")).get(COOKIE)
            except CookieError:
                continue
            if found is not None:
                given.append(found.value.encode("latin-1"))
        if any(self._same(one) for one in given):
            return None
        if scope["method"] == "GET" and scope["path"] == "/":
            shown = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
            if any(self._same(one.encode("latin-1", "replace")) for one in shown):
                # The address with the token opens the page; then the token is in a cookie that no
                # script can read, and no longer in the address.
                entry = Response(status_code=303, headers={"location": "/"})
                entry.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
                return entry
        refusal = self._no(
            "token",
            401,
            "show the token, as `Authorization: Bearer TOKEN`, or open the address that was "
            "printed at the start",
        )
        refusal.headers["www-authenticate"] = "Bearer"
        return refusal

    def _same(self, given: bytes) -> bool:
        assert self.token is not None
        return hmac.compare_digest(given, self.token.encode("latin-1"))

    def _no(self, reason: str, status: int, words: str) -> Response:
        self.metrics.refused.labels(reason).inc()
        return problem(status, words)


class _Body:
    """The body of one request, counted while it is received."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive) -> None:
        self.guard = guard
        self._receive = receive
        self.announced = 0
        self.received = 0
        self.size = 0
        """What of the memory for bodies this one holds."""
        self.complete = False

    def announce(self, length: int) -> None:
        """Reserve what its header says; raises `_TooMuch`."""
        self.announced = length
        self._hold(length)

    def _hold(self, size: int) -> None:
        limits = self.guard.limits
        if size > limits.upload:
            raise _TooMuch(413, f"more than the {limits.upload:,} bytes that a request may have")
        if size > self.size:
            if self.guard.held + size - self.size > limits.held:
                raise _TooMuch(503, "too many uploads at a time; try again in a second")
            self.guard.held += size - self.size
            self.size = size

    async def receive(self) -> Message:
        """The next part, unless it is too much; raises `_TooMuch`."""
        message = await self._receive()
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
            self._hold(self.received)
            self.complete = not message.get("more_body", False)
        return message


def _name_of(host: bytes) -> str | None:
    """The name in a Host header, without the port."""
    try:
        return urlsplit(f"//{host.decode('ascii')}").hostname
    except (ValueError, UnicodeDecodeError):
        return None


def problem(status: int, reason: str, retry: int | None = None) -> Response:
    """An answer that says why there is none.

    Example:
        >>> problem(404, "no item has the id 7").body
        b'{"error":"no item has the id 7"}'
    """
    headers = {"cache-control": "no-store"}
    if status == 503:
        headers["retry-after"] = str(retry or 1)
    return Response(
        forms.dump({"error": reason}), status, headers=headers, media_type="application/json"
    )
