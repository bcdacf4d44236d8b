"""What Ray Serve's proxy puts before its routes: the shape of our errors, and a bound on bodies.

Ray calls `middlewares` in the process of each proxy, so this imports nothing large.
"""

import logging

import uvicorn
from starlette.middleware import Middleware

from pipeline.serving.guard import MAX_BODY, TOO_LARGE, App, Message, Receive, Send, send_error

logger = logging.getLogger(__name__)

# What a replica reads. Ray's proxy would take its own limits from others, before any token is seen.
HEADERS = {b"host", b"authorization", b"content-type", b"content-length", b"if-none-match"}
HEADERS |= {b"sec-fetch-site", b"transfer-encoding"}
OF_RAY = ("/-/healthz", "/-/routes")  # the proxy's own
# What Ray's proxy answers itself, as status and kind of ours.
OF_PROXY = {
    408: (504, "timeout", "not drawn in time."),
    429: (503, "overloaded", "too many requests wait: try again."),
    503: (503, "overloaded", "no process can draw this now: try again."),
}
LOST = (503, "lost", "the process that drew this has ended: try again.")


class CleanErrors:
    """Replaces what Ray's proxy answers itself, and answers for a replica that ended."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request (ASGI)."""
        if scope["type"] != "http" or scope["path"] in OF_RAY:
            await self.app(scope, receive, send)
            return
        scope = {**scope, "headers": [each for each in scope["headers"] if each[0] in HEADERS]}
        start: Message | None = None
        answered, seen = False, 0

        async def receive_bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            return {"type": "http.disconnect"} if seen > MAX_BODY else message

        async def send_clean(message: Message) -> None:
            nonlocal start, answered
            if message["type"] == "http.response.start":
                start = message  # held back: its replica may end before the body is there
                return
            if start is not None and not answered:
                answered = True
                headers = dict(start["headers"])
                status = start["status"]
                if status >= 400 and headers.get(b"content-type") != b"application/json":
                    error = (status, "http", "the server cannot answer this.")
                    await send_error(send, *OF_PROXY.get(status, error))
                    start = None
                else:
                    await send(start)
            if start is not None:
                await send(message)

        try:
            await self.app(scope, receive_bounded, send_clean)
        except Exception:
            if answered:
                raise
            logger.exception("Ray's proxy failed at a request")
        if not answered:
            await send_error(send, *(TOO_LARGE if seen > MAX_BODY else LOST))


def middlewares() -> list[Middleware]:
    """Return what Ray's proxy puts before its routes."""
    # Not what happens to be installed; and h11 bounds the head of a request.
    uvicorn.config.HTTP_PROTOCOLS["auto"] = uvicorn.config.HTTP_PROTOCOLS["h11"]
    return [Middleware(CleanErrors)]
