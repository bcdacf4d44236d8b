"""Check that a Ray cluster accepts this process, and report why not.

Ray itself retries for 22 s if a token is missing, and then reports only a failed connection.
"""

import contextlib
import os
import urllib.error
import urllib.request
from pathlib import Path

from pipeline.common.console import print_line
from pipeline.ray_cluster.port_probe import Answer, Endpoint, ask_head, own_token
from pipeline.ray_cluster.token_file import exposed, others_may_read

TIMEOUT_S = 10.0
KEEP = "Put it into ~/.ray/auth_token (chmod 600) or name its file in RAY_AUTH_TOKEN_PATH"


def check_head(address: str) -> None:
    """Check that the head of a cluster answers and accepts this process.

    Args:
        address: Host and port, as in `RAY_ADDRESS`. Other forms are not checked.

    Raises:
        OSError: If it does not, with what to do.
    """
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or "/" in host:
        return
    door = Endpoint(host.strip("[]"), int(port))
    answer = ask_head(door)
    if answer is Answer.OPEN:
        print_line(
            f"warning: the cluster at {address} requires no token: anybody who can connect to it "
            "can run programs on it. Start it with RAY_AUTH_MODE=token."
        )
        return
    if answer is not Answer.REFUSED:
        raise ConnectionError(
            f"no Ray cluster answers at RAY_ADDRESS={address}. Is it up, and is this the address "
            "that `ray start --head` printed? Without RAY_ADDRESS, Ray starts on this machine."
        )
    token, place = own_token()
    _check_token(address, token, place)
    if ask_head(door, token) is not Answer.OPEN:
        raise _wrong(address, place)


def check_dashboard(address: str) -> None:
    """Check that a cluster's dashboard answers and accepts jobs from this process.

    Args:
        address: For example http://127.0.0.1:8265.

    Raises:
        OSError: If it does not, with what to do.
    """
    token, place = own_token()
    shown = {"Authorization": f"Bearer {token}"} if token else {}
    remedy = "Export its address as RAY_API_SERVER_ADDRESS, for example http://127.0.0.1:8265."
    try:
        request = urllib.request.Request(f"{address.rstrip('/')}/api/version", headers=shown)
        urllib.request.urlopen(request, timeout=TIMEOUT_S).close()
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            _check_token(address, token, place)
            raise _wrong(address, place) from error
        raise ConnectionError(
            f"{address} answers {error.code} {error.reason}, so it is not a Ray dashboard. {remedy}"
        ) from error
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"no Ray dashboard answers at {address} ({getattr(error, 'reason', error)}). Is the "
            f"cluster up? {remedy}"
        ) from error
    if token:
        _check_token(address, token, place)


def _check_token(address: str, token: str, place: str) -> None:
    if not token:
        raise PermissionError(
            f"token missing: the cluster at {address} requires one. {KEEP}, and: "
            "export RAY_AUTH_MODE=token"
        )
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        raise PermissionError(
            f"the cluster at {address} requires a token, and the one in {place} is not used: "
            "export RAY_AUTH_MODE=token"
        )
    with contextlib.suppress(OSError):  # the token may be in the environment, without a file
        if others_may_read(Path(place).stat()):
            print_line(f"warning: {exposed(Path(place))}")


def _wrong(address: str, place: str) -> PermissionError:
    return PermissionError(
        f"wrong token: the cluster at {address} does not accept the one in {place}. Use the token "
        f"that the cluster was started with. {KEEP}."
    )
