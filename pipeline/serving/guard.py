"""Who may ask a server, and what a browser may do with its answers.

Closed by default: only its own names in the Host header (so that a page elsewhere cannot reach it
under a name of its own), no requests that other pages start, a token if there is one, and bodies of
bounded size.
"""

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

MAX_BODY = 256 * 2**10  # bytes
TOO_LARGE = (413, "too_large", f"the body has over {MAX_BODY:,} bytes.")
RETRY_AFTER_S = 2
# A page at another port of this machine is of the same site, and may be anybody's.
OWN_PAGES = (b"same-origin", b"none")
# Need no token: they are the same on every server.
OPEN = ("/", "/healthz", "/docs", "/openapi.json", "/page.css", "/page.js", "/icon.svg")
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


def error_body(message: str, kind: str, param: str | None = None) -> dict[str, Any]:
    """Return the one shape of all errors, that of OpenAI's API."""
    return {"error": {"message": message, "type": kind, "param": param, "code": None}}


class Guard:
    """Lets requests through to an application, or refuses them.

    Args:
        app: Answers what is let through.
        hosts: Values of the Host header that are its own; None permits all, behind a proxy.
        token: That requests must bring; none if empty.
    """

    def __init__(self, app: App, hosts: frozenset[str] | None, token: str) -> None:
        self.app, self.hosts, self.token = app, hosts, token.encode()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request (ASGI)."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # a web socket: there is none
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = {name.decode("latin-1"): value for name, value in scope["headers"]}
        refused = self._refusal(scope, headers)
        if refused is not None:
            await send_error(send, *refused)
            return
        await self.app(scope, *_bounded(receive, send))

    def _refusal(
        self, scope: MutableMapping[str, Any], headers: dict[str, bytes]
    ) -> tuple[int, str, str] | None:
        """Return status, kind and message for a request that is refused."""
        host = headers.get("host", b"").decode("latin-1").lower()
        if self.hosts is not None and host not in self.hosts:
            return (
                403,
                "host_not_allowed",
                ("the server does not go by this name. Start it with --allowed-host NAME:PORT."),
            )
        if headers.get("sec-fetch-site", b"none") not in OWN_PAGES and scope["path"] != "/":
            return 403, "cross_site", "pages of others may not ask this server."
        if self.token and scope["path"] not in OPEN:
            scheme, _, given = headers.get("authorization", b"").partition(b" ")
            known = hmac.compare_digest(given.strip(), self.token)
            if scheme.lower() != b"bearer" or not known:
                return 401, "unauthorized", "this server needs a token: Authorization: Bearer …"
        if int(headers.get("content-length", b"0")) > MAX_BODY:
            return TOO_LARGE
        return None


def _bounded(receive: Receive, send: Send) -> tuple[Receive, Send]:
    """Return both such that a body of unstated length is refused when it is too large."""
    seen, refused = 0, False

    async def receive_bounded() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        # The rest is not read: the application sees a cut body, and its answer is not sent.
        return {"type": "http.disconnect"} if seen > MAX_BODY else message

    async def send_checked(message: Message) -> None:
        nonlocal refused
        if seen <= MAX_BODY:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_raw(HEADERS)]
            await send(message)
        elif not refused:
            refused = True
            await send_error(send, *TOO_LARGE)

    return receive_bounded, send_checked


async def send_error(send: Send, status: int, kind: str, message: str) -> None:
    """Send an answer that is an error (ASGI)."""
    content = json.dumps(error_body(message, kind)).encode()
    headers = HEADERS | {"content-type": "application/json", "content-length": str(len(content))}
    if status == 401:
        headers |= {"www-authenticate": "Bearer"}
    if status == 503:
        headers |= {"retry-after": str(RETRY_AFTER_S)}
    await send({"type": "http.response.start", "status": status, "headers": [*_raw(headers)]})
    await send({"type": "http.response.body", "body": content})


def _raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]
