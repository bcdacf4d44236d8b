"""What comes from Ray's proxy itself, or from a replica that ended, looks like our errors."""

import asyncio
import json

import pytest

from pipeline.serving.guard import MAX_BODY
from pipeline.serving.proxy import CleanErrors


async def _answer(app, scope: dict, *received: dict) -> tuple[int, dict]:
    messages = iter(received)
    sent: list[dict] = []

    async def receive() -> dict:
        return next(messages)

    async def send(message: dict) -> None:
        sent.append(message)

    await CleanErrors(app)(
        {"type": "http", "path": "/imagine", "headers": []} | scope, receive, send
    )
    start, body = sent
    return start["status"], json.loads(body["body"])["error"]


@pytest.mark.parametrize(
    ("status", "expected", "kind"),
    [(408, 504, "timeout"), (503, 503, "overloaded"), (404, 404, "http"), (None, 503, "lost")],
)
def test_what_the_proxy_answers_itself_has_the_shape_of_our_errors(status, expected, kind):
    async def proxy(scope, receive, send) -> None:
        if status is not None:
            headers = [(b"content-type", b"text/plain")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b"Traceback"})

    answered, error = asyncio.run(_answer(proxy, {}))

    assert (answered, error["type"]) == (expected, kind)
    assert "Traceback" not in error["message"]


def test_the_proxy_gets_no_limits_from_who_asks_and_its_failures_are_clean():
    seen = []

    async def proxy(scope, receive, send) -> None:
        seen.append(dict(scope["headers"]))
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "as Ray's own headers")

    headers = [(b"x-request-timeout-seconds", b"0"), (b"x-request-id", b"\xff"), (b"host", b"a")]

    assert asyncio.run(_answer(proxy, {"headers": headers}))[0] == 503
    assert seen == [{b"host": b"a"}]


def test_only_the_routes_of_the_proxy_itself_go_past(caplog):
    async def proxy(scope, receive, send) -> None:
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"error": {"type": "raw"}}'})

    for path, kind in (("/-/healthz", "raw"), ("/-/x", "overloaded")):
        assert asyncio.run(_answer(proxy, {"path": path}))[1]["type"] == kind


def test_a_replica_that_ends_between_head_and_body_of_an_answer_is_lost():
    async def proxy(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    assert asyncio.run(_answer(proxy, {}))[0] == 503


def test_the_proxy_takes_no_more_of_a_body_than_a_replica_does():
    async def proxy(scope, receive, send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    part = {"type": "http.request", "body": b"x" * MAX_BODY, "more_body": True}

    assert asyncio.run(_answer(proxy, {}, part, part, part))[0] == 413
