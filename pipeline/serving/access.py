"""Where a server listens, the names it goes by, and the token that requests must bring."""

import os
import socket
import stat
from pathlib import Path

from pipeline.serving.config import ServeConfig

HTTP_PORT = 80
LEAST_TOKEN = 32  # characters
TOKEN = "RATGAN_SERVE_TOKEN"


def address(host: str, port: int) -> str:
    """Return host and port as in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def own_names(config: ServeConfig, port: int) -> frozenset[str]:
    """Return the values of the Host header that a server answers to."""
    names = {address(config.host, port), *config.allowed_host}
    names |= {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}
    if port == HTTP_PORT:  # browsers leave it out
        names |= {name.removesuffix(f":{port}") for name in names}
    return frozenset(name.lower() for name in names)


def listen(config: ServeConfig) -> socket.socket:
    """Take the port.

    Raises:
        OSError: If somebody else has it.
    """
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


def in_cluster(config: ServeConfig) -> bool:
    """Tell whether a cluster serves, and not this machine.

    Raises:
        ValueError: If it would do so without a token, or at a port that nobody knows.
    """
    if not os.environ.get("RAY_ADDRESS"):
        return False
    if not config.token_file or not config.port:
        raise ValueError(
            "a cluster can be reached by others, and at a known port only: serve with --token-file "
            "and --port."
        )
    return True


def read_token(path: str) -> str:
    """Read the token that requests must bring.

    Raises:
        ValueError: If others can read the file, or the token is short.
    """
    with Path(path).open(encoding="ascii") as file:
        found = os.fstat(file.fileno())
        if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO) or found.st_uid != os.getuid():
            raise ValueError(f"token_file={path} can be read by others: make a new one, mode 600.")
        token = file.read(4096).strip()
    return checked_token(token, path)


def checked_token(token: str, place: str) -> str:
    """Return a token.

    Raises:
        ValueError: If it is short.
    """
    if len(token) < LEAST_TOKEN:
        raise ValueError(
            f"the token in {place} has {len(token)} characters; {LEAST_TOKEN} is the minimum."
        )
    return token
