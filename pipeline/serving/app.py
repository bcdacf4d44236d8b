"""The HTTP API of trained models, and the page that uses it."""

import asyncio
import base64
import hashlib
import html
import json
import secrets
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from fastapi import FastAPI, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.exceptions import HTTPException

from pipeline.common.console import print_line
from pipeline.preparation.decoding.captions import clean_caption
from pipeline.serving.config import ServeConfig
from pipeline.serving.drawing_queue import DrawingQueue, Drawn, QueueFullError
from pipeline.serving.guard import RETRY_AFTER_S, error_body
from pipeline.serving.models import ServedModel, reload_moved
from ratgan.picture import MAX_SEED, Picture, signed_png
from ratgan.visualize import png, to_pil

PAGE = Path(__file__).with_name("page")
KINDS = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
MAX_PROMPT = 2000  # characters
PATIENCE = 10  # times as long until the next look at MLflow, after one that failed
LOOK_EVERY_S = 0.5  # whether who asked is still there
MAX_SHOWN_SEED = 2**31 - 1  # of seeds that are drawn here: short enough to read aloud
NOTE = "The caption is far from all captions of the training: the picture will hardly fit it."

Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Share = Annotated[float, Field(ge=0, le=1)]
Truncation = Annotated[float, Field(ge=0, le=2)]


class Generation(BaseModel):
    """A request for images, in the shape of OpenAI's API."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    """Caption to draw."""
    model: str | None = None
    """Name of a model; the first one by default."""
    n: Annotated[int, Field(ge=1)] = 1
    """Number of images: of seeds seed, seed + 1, …"""
    size: str | None = None
    """As in 64x64; must be that of the model."""
    response_format: Literal["b64_json"] = "b64_json"
    """PNG files in base 64; the server keeps no files, so it gives no addresses."""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED - 256)] | None = None
    """Seed of the noise; a random one by default, and the answer names it."""
    truncation: Truncation | None = None
    """Factor of noise that is cut at two deviations: below 1, less variety."""
    attention: bool = False
    """Overlay the discriminator's attention."""
    user: str | None = None
    """Not used."""


class Question(BaseModel):
    """A request for one image, in a query."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    """Caption to draw."""
    model: str | None = None
    """Name of a model; the first one by default."""
    seed: Seed = 0
    """Seed of the noise."""
    truncation: Truncation | None = None
    """Factor of noise that is cut at two deviations: below 1, less variety."""
    other_prompt: str | None = None
    """Caption at the end of an interpolation."""
    prompt_share: Share = 0.0
    """Share of the way from the caption to it."""
    other_seed: Seed | None = None
    """Seed of the noise at the end of an interpolation."""
    noise_share: Share = 0.0
    """Share of the way to that noise."""
    attention: bool = False
    """Overlay the discriminator's attention."""

    @model_validator(mode="after")
    def _check_ends(self) -> Self:
        for end, share in (("other_prompt", "prompt_share"), ("other_seed", "noise_share")):
            if getattr(self, end) is None and getattr(self, share):
                raise ValueError(f"{share} is a share of the way to {end}, which is missing")
        return self

    def picture(self) -> Picture:
        """Return what to draw."""
        return Picture(
            _clean(self.prompt, "prompt"),
            self.seed,
            truncation=self.truncation,
            other_caption=None
            if self.other_prompt is None
            else _clean(self.other_prompt, "other_prompt"),
            caption_share=self.prompt_share,
            other_seed=self.other_seed,
            noise_share=self.noise_share,
        )


class Fault(BaseModel):
    """What was wrong with a request."""

    message: str
    type: str
    param: str | None
    code: None


class ErrorAnswer(BaseModel):
    """The one shape of all errors."""

    error: Fault


class RefusedError(Exception):
    """A request that cannot be answered.

    Attributes:
        status: Of HTTP.
        kind: For programs.
        param: That is wrong.
    """

    def __init__(self, message: str, status: int, kind: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.param = status, kind, param


class Meter:
    """What the server counts, for Prometheus."""

    def __init__(self, queue: DrawingQueue) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "ratgan_requests", "Requests", ["route", "status"], registry=self.registry
        )
        self.images = Counter("ratgan_images", "Images drawn", ["model"], registry=self.registry)
        self.seconds = Histogram(
            "ratgan_request_seconds", "Time of a request", ["route"], registry=self.registry
        )
        waiting = Gauge("ratgan_queue_images", "Images that wait", registry=self.registry)
        waiting.set_function(lambda: len(queue))

    async def measure(
        self, request: Request, answer: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        """Answer a request, and count it."""
        started = time.perf_counter()
        status = 500
        try:
            response = await answer(request)
            status = response.status_code
            return response
        finally:
            route = getattr(request.scope.get("route"), "path", "other")
            self.requests.labels(route, status).inc()
            self.seconds.labels(route).observe(time.perf_counter() - started)


def build_app(config: ServeConfig, models: dict[str, ServedModel]) -> FastAPI:
    """Build the application that serves some models, by name."""
    queue = DrawingQueue(config.max_queue)

    ended = threading.Event()

    def reload() -> None:
        pause, said = config.reload_s, list[str]()
        while not ended.wait(pause):
            failures = reload_moved(config, models)
            for failure in failures if failures != said else ():
                print_line(failure)
            # A version that cannot be loaded would be fetched again and again.
            pause, said = config.reload_s * (PATIENCE if failures else 1), failures

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # A daemon: an MLflow that does not answer must not delay the end.
        threading.Thread(target=reload, name="reload", daemon=True).start()
        yield
        ended.set()
        await run_in_threadpool(queue.close)

    app = FastAPI(
        title="RAT-GAN",
        version="1",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        # Otherwise FastAPI lists its own 422, which is never answered.
        responses={"default": {"model": ErrorAnswer, "description": "An error."}},
    )
    meter = Meter(queue)
    app.middleware("http")(meter.measure)
    _handle_errors(app)
    service = _Service(config, models, queue, meter)

    @app.post("/v1/images/generations")
    async def generations(asked: Generation, request: Request) -> dict[str, Any]:
        """Draw images of a caption."""
        served = service.find(asked.model)
        size = f"{served.size}x{served.size}"
        if asked.size not in (None, "auto", size):
            raise RefusedError(f"size must be {size}, that of the model.", 400, "invalid", "size")
        if asked.n > config.max_images:
            raise RefusedError(
                f"n={asked.n} is over {config.max_images}, the most of one request.",
                400,
                "invalid",
                "n",
            )
        caption = _clean(asked.prompt, "prompt")
        first = secrets.randbelow(MAX_SHOWN_SEED) if asked.seed is None else asked.seed
        pictures = [
            Picture(caption, first + number, truncation=asked.truncation)
            for number in range(asked.n)
        ]
        drawn = await service.draw(request, served, pictures, attention=asked.attention)
        data = [
            {"b64_json": base64.b64encode(content).decode(), "seed": picture.seed}
            | ({"note": NOTE} if each.unfamiliar else {})
            for picture, (each, content) in zip(pictures, drawn, strict=True)
        ]
        return {"created": int(time.time()), "model": served.name, "size": size, "data": data}

    @app.get("/imagine", response_class=Response)
    async def imagine(asked: Annotated[Question, Query()], request: Request) -> Response:
        """Draw one image: the same question, the same bytes."""
        served, picture = service.find(asked.model), asked.picture()
        identity = json.dumps([served.identity, picture.record(), asked.attention])
        headers = {
            "etag": f'"{hashlib.sha256(identity.encode()).hexdigest()[:32]}"',
            "cache-control": "private, no-cache",  # the browser asks whether it is still the same
        }
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        drawing = service.draw(request, served, [picture], attention=asked.attention)
        [(drawn, content)] = await drawing
        if drawn.unfamiliar:
            headers["x-note"] = NOTE
        return Response(content, media_type="image/png", headers=headers)

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        """List the models."""
        return {"object": "list", "data": [served.describe() for served in models.values()]}

    @app.get("/healthz", response_class=PlainTextResponse)
    async def health() -> str:
        """Answer as long as the server works."""
        return "ok\n"

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Return what the server counts, for Prometheus."""
        return Response(generate_latest(meter.registry), media_type="text/plain; version=0.0.4")

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> str:
        return _documentation(app.openapi())

    for name in ("page.html", "page.css", "page.js", "icon.svg"):
        _add_file(app, "/" if name == "page.html" else f"/{name}", PAGE / name)
    return app


class _Service:
    """Finds models, draws, and keeps the limits."""

    def __init__(
        self,
        config: ServeConfig,
        models: dict[str, ServedModel],
        queue: DrawingQueue,
        meter: Meter,
    ) -> None:
        self.config, self.models, self.queue, self.meter = config, models, queue, meter

    def find(self, name: str | None) -> ServedModel:
        """Return the model that is asked for."""
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            known = ", ".join(self.models)
            raise RefusedError(f"there is no such model. Models: {known}.", 404, "unknown", "model")
        return self.models[name]

    async def draw(
        self,
        request: Request,
        served: ServedModel,
        pictures: Sequence[Picture],
        *,
        attention: bool,
    ) -> list[tuple[Drawn, bytes]]:
        """Draw pictures, each with its PNG file."""
        if attention and served.discriminator is None:
            raise RefusedError(
                f"model {served.name} has no attention to show: serve its run.",
                400,
                "invalid",
                "attention",
            )
        try:
            waiting = self.queue.put(served, pictures, attention=attention)
        except QueueFullError:
            raise RefusedError("too many requests wait: try again.", 503, "overloaded") from None
        try:
            drawn = await self._wait(request, waiting)
        except asyncio.CancelledError:
            raise RefusedError("the server stops.", 503, "stopping") from None
        except ValueError as error:  # a caption without a word that the encoder knows
            raise RefusedError(str(error), 400, "invalid", "prompt") from error
        finally:
            for each in waiting:
                each.cancel()
        self.meter.images.labels(served.name).inc(len(drawn))

        def encode(each: Drawn, picture: Picture) -> bytes:
            image = to_pil(each.image)
            # What is laid over a picture cannot be drawn again from its record.
            if attention:
                return png(image)
            return signed_png(image, picture, served.model.digest, served.step)

        return await run_in_threadpool(
            lambda: [(each, encode(each, p)) for each, p in zip(drawn, pictures, strict=True)]
        )

    async def _wait(self, request: Request, waiting: Sequence["Future[Drawn]"]) -> list[Drawn]:
        """Wait for pictures as long as who asked does, and not longer than the limit."""
        ends = time.monotonic() + self.config.timeout_s
        together = asyncio.ensure_future(_all(waiting))
        while True:
            left = ends - time.monotonic()
            done, _ = await asyncio.wait({together}, timeout=max(0, min(LOOK_EVERY_S, left)))
            if done:
                return together.result()
            if left <= 0 or await request.is_disconnected():
                together.cancel()
                limit = f"not drawn within {self.config.timeout_s:g} s."
                raise RefusedError(limit, 504, "timeout")


async def _all(waiting: Sequence["Future[Drawn]"]) -> list[Drawn]:
    return list(await asyncio.gather(*(asyncio.wrap_future(each) for each in waiting)))


def _clean(caption: str, param: str) -> str:
    if len(caption) > MAX_PROMPT:
        message = f"{param} has {len(caption):,} characters; {MAX_PROMPT:,} is the maximum."
        raise RefusedError(message, 400, "invalid", param)
    try:
        return clean_caption(caption)
    except ValueError as error:
        raise RefusedError(f"{param} cannot be used: {error}.", 400, "invalid", param) from error


def _handle_errors(app: FastAPI) -> None:
    """Give all errors one shape."""

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> JSONResponse:
        retry = {"retry-after": str(RETRY_AFTER_S)} if error.status == 503 else None
        body = error_body(str(error), error.kind, error.param)
        return JSONResponse(body, error.status, headers=retry)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:])
        message = f"{param}: {first['msg']}" if param else str(first["msg"])
        if first["type"] == "json_invalid":
            param, message = "", f"the body is not JSON: {first['ctx']['error']}, byte {param}"
        elif not param and isinstance(first["input"], str | bytes):
            message = "the body must be JSON, sent with Content-Type: application/json"
        return JSONResponse(error_body(message, "invalid", param or None), 400)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(error_body(f"{error.detail}.", "http"), error.status_code)

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(error_body("a fault of the server; its log says more.", "fault"), 500)


def _add_file(app: FastAPI, path: str, file: Path) -> None:
    content, kind = file.read_bytes(), KINDS[file.suffix]
    headers = {"cache-control": "no-cache"}

    @app.get(path, include_in_schema=False)
    async def send_file() -> Response:
        return Response(content, media_type=f"{kind}; charset=utf-8", headers=headers)


def _documentation(schema: dict[str, Any]) -> str:
    """Return the API as a page without scripts."""
    parts = []
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            rows = [
                (each["name"], each.get("description", ""), each["schema"])
                for each in route.get("parameters", ())
            ]
            body = route.get("requestBody", {}).get("content", {}).get("application/json")
            if body:
                name = body["schema"]["$ref"].rpartition("/")[2]
                properties = schema["components"]["schemas"][name]["properties"]
                rows += [
                    (key, each.get("description", ""), each) for key, each in properties.items()
                ]
            table = "".join(
                f"<tr><th scope=row><code>{html.escape(key)}</code></th>"
                f"<td>{html.escape(text)}</td></tr>"
                for key, text, _ in rows
            )
            parts.append(
                f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>"
                f"<p>{html.escape(route.get('description', ''))}</p>"
                + (f"<table>{table}</table>" if table else "")
            )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        '<title>RAT-GAN: the API</title><link rel="stylesheet" href="/page.css">'
        f'<main class="docs"><h1>The API</h1><p><a href="/">The page</a> · '
        f'<a href="/openapi.json">openapi.json</a></p>{"".join(parts)}</main></html>'
    )
