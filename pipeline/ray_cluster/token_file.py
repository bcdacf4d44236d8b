"""The file of a Ray cluster's token: created for its owner alone, refused if others can read it.

Anybody who has the token of a cluster can run programs on it.
"""

import os
import secrets
import stat
import tempfile
from pathlib import Path

from pipeline.common.commands import command

LEAST_LENGTH = 32
PATH_VARIABLE = "RAY_AUTH_TOKEN_PATH"


def token_file() -> Path:
    """Return the file of this user's token; create it if Ray's default file does not exist.

    Raises:
        ValueError: If it is not a file that only its owner can read, with what to do.
    """
    if os.environ.get("RAY_AUTH_TOKEN"):
        raise ValueError(
            "RAY_AUTH_TOKEN is set: every process would pass the token on in its environment. Put "
            f"it into a file of mode 600, name that in {PATH_VARIABLE}, and unset RAY_AUTH_TOKEN."
        )
    path = token_path()
    if not os.environ.get(PATH_VARIABLE):
        try:
            create_token(path)
        except FileExistsError:
            pass
        except OSError as error:
            raise ValueError(
                f"the token of the cluster cannot be kept in {path} ({error.strerror}). Set HOME "
                f"to a folder that you can write to, or name a file of mode 600 in {PATH_VARIABLE}."
            ) from error
    try:
        found = path.stat()
        token = path.read_text().strip()
    except OSError as error:
        raise ValueError(
            f"no token: {path} cannot be read ({error.strerror}). Anybody who can connect to a Ray "
            f"cluster without a token can run programs on it. Unset {PATH_VARIABLE} to use "
            "~/.ray/auth_token, which is created if it is missing."
        ) from error
    if others_may_read(found):
        raise ValueError(exposed(path))
    if len(token) < LEAST_LENGTH:
        raise ValueError(
            f"the token in {path} has {len(token)} characters; {LEAST_LENGTH} is the minimum. "
            f"{_make_new(path)}"
        )
    return path


def token_path() -> Path:
    """Return the path where Ray searches for this user's token.

    Raises:
        ValueError: If this user has no home folder and names no file.
    """
    try:
        return Path(os.environ.get(PATH_VARIABLE) or "~/.ray/auth_token").expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(
            f"this user has no home folder for a token. Set HOME, or name a file of mode 600 in "
            f"{PATH_VARIABLE}."
        ) from error


def create_token(path: Path) -> None:
    """Write a new token into a new file of mode 0600.

    It appears complete or not at all: if two processes call this, one creates it, and both read it.

    Raises:
        FileExistsError: If the file exists.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # of mode 0600
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
        os.link(draft, path)
    finally:
        os.unlink(draft)


def others_may_read(found: os.stat_result) -> bool:
    """Return whether other users can read or change a file."""
    return bool(found.st_mode & (stat.S_IRWXG | stat.S_IRWXO)) or found.st_uid != os.getuid()


def exposed(path: Path) -> str:
    """Return the message for a token that others can read."""
    return (
        f"the token in {path} can be read by others, who can use it to run programs as you. "
        f"Others may know it already. {_make_new(path)}"
    )


def _make_new(path: Path) -> str:
    return (
        f"Create a new one:\n  {command('rm', path)}\n"
        "  (umask 077; mkdir -p ~/.ray; ray get-auth-token --generate > /dev/null)\n"
        "Clusters that were started with the old one must be restarted."
    )
