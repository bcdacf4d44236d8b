"""Serve pictures of trained models from this process, until it is stopped."""

import contextlib
import os
import socket
import stat
from pathlib import Path

import uvicorn

from pipeline.common.console import DryRunReport, print_line
from pipeline.serving.app import build_app
from pipeline.serving.config import ServeConfig
from pipeline.serving.guard import Guard
from pipeline.serving.models import ServedModel, load_models

HTTP_PORT = 80
LEAST_TOKEN = 32  # characters


def serve(config: ServeConfig) -> None:
    """Load the models, listen, and answer until SIGINT or SIGTERM.

    Raises:
        ValueError: If an option is wrong, or the token can be read by others.
        FileNotFoundError: If a model does not exist.
        OSError: If the port is taken.
    """
    server, listener = prepare(config)
    with listener:
        host, port = listener.getsockname()[:2]
        print_line(f"open http://{_address(host, port)}/ (Ctrl-C stops the server)")
        # Both signals that stop it come again when it has stopped: that was what was asked for.
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            server.run(sockets=[listener])
        print_line("stopped.")


def plan_serving(config: ServeConfig) -> None:
    """Print what would be served, after loading the models and taking the port; as `serve`."""
    _, listener, models = _open(config)
    with listener:
        host, port = listener.getsockname()[:2]
    report = DryRunReport()
    for name, served in models.items():
        attention = "with" if served.discriminator else "without"
        about = f"{served.size} px, step {served.step}, {attention} attention"
        report.line("model", f"{name}: {about}")
    report.line("address", f"http://{_address(host, port)}/")
    report.line("access", "with a token" if config.token_file else "this machine, without a token")
    report.end()


def prepare(config: ServeConfig) -> tuple[uvicorn.Server, socket.socket]:
    """Load the models and take the port; requests wait until the server runs."""
    token, listener, models = _open(config)
    port = listener.getsockname()[1]
    names = {_address(config.host, port), *config.allowed_host}
    names |= {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}
    if port == HTTP_PORT:  # browsers leave it out
        names |= {name.removesuffix(f":{port}") for name in names}
    hosts = frozenset(name.lower() for name in names)
    options = uvicorn.Config(
        Guard(build_app(config, models), hosts, token),
        log_config=None,  # no access log: captions are the affair of who asks
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(options), listener


def _open(config: ServeConfig) -> tuple[str, socket.socket, dict[str, ServedModel]]:
    """Read the token, take the port and load the models."""
    token = _read_token(config.token_file) if config.token_file else ""
    listener = _listen(config)
    try:
        return token, listener, load_models(config)
    except BaseException:
        listener.close()
        raise


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _listen(config: ServeConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise OSError(
            f"port {config.port} of {config.host} cannot be used ({error.strerror}): choose "
            "another one with --port; 0 takes a free one."
        ) from error
    return listener


def _read_token(path: str) -> str:
    """Read the token that requests must bring.

    Raises:
        ValueError: If others can read the file, or the token is short.
    """
    with Path(path).open(encoding="ascii") as file:
        found = os.fstat(file.fileno())
        if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO) or found.st_uid != os.getuid():
            raise ValueError(f"token_file={path} can be read by others: make a new one, mode 600.")
        token = file.read(4096).strip()
    if len(token) < LEAST_TOKEN:
        raise ValueError(
            f"the token in {path} has {len(token)} characters; {LEAST_TOKEN} is the minimum."
        )
    return token
