"""Serve pictures of trained models from this process or replicas on Ray, until it is stopped."""

import contextlib
import os
import socket

import uvicorn

from pipeline.common.console import DryRunReport, print_line
from pipeline.serving.access import address, in_cluster, listen, own_names, read_token
from pipeline.serving.app import build_app
from pipeline.serving.config import ServeConfig
from pipeline.serving.guard import Guard
from pipeline.serving.models import ServedModel, load_models


def serve(config: ServeConfig) -> None:
    """Load the models, listen, and answer until SIGINT or SIGTERM.

    Raises:
        ValueError: If an option is wrong, or the token can be read by others.
        FileNotFoundError: If a model does not exist.
        OSError: If the port is taken.
    """
    if config.replicas or os.environ.get("RAY_ADDRESS"):
        from pipeline.serving.replicas import serve_replicas  # Ray takes seconds to import

        serve_replicas(config)
        return
    server, listener = prepare(config)
    with listener:
        host, port = listener.getsockname()[:2]
        print_line(f"open http://{address(host, port)}/ (Ctrl-C stops the server)")
        # Both signals that stop it come again when it has stopped: that was what was asked for.
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            server.run(sockets=[listener])
        print_line("stopped.")


def plan_serving(config: ServeConfig) -> None:
    """Print what would be served, after loading the models and taking the port; as `serve`."""
    cluster = in_cluster(config)
    _, listener, models = _open(config)
    with listener:
        host, port = listener.getsockname()[:2]
    report = DryRunReport()
    for name, served in models.items():
        attention = "with" if served.discriminator else "without"
        about = f"{served.size} px, step {served.step}, {attention} attention"
        report.line("model", f"{name}: {about}")
    if config.replicas or cluster:
        report.line("replicas", f"{config.replicas or 1} at most, on Ray")
    report.line("address", f"http://{address(host, port)}/")
    report.line("access", "with a token" if config.token_file else "this machine, without a token")
    report.end()


def prepare(config: ServeConfig) -> tuple[uvicorn.Server, socket.socket]:
    """Load the models and take the port; requests wait until the server runs."""
    token, listener, models = _open(config)
    port = listener.getsockname()[1]
    options = uvicorn.Config(
        Guard(build_app(config, models), own_names(config, port), token),
        # Not what happens to be installed; and h11 bounds the head of a request.
        http="h11",
        loop="asyncio",
        log_config=None,  # no access log: captions are the affair of who asks
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(options), listener


def _open(config: ServeConfig) -> tuple[str, socket.socket, dict[str, ServedModel]]:
    """Read the token, take the port and load the models."""
    token = read_token(config.token_file) if config.token_file else ""
    listener = listen(config)
    try:
        return token, listener, load_models(config)
    except BaseException:
        listener.close()
        raise
