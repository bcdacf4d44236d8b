"""Audit a Ray cluster: probe every port its processes listen on, without a token.

python -m pipeline.ray_cluster.port_audit    # on each machine of a cluster
"""

import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil
import ray

from pipeline.common.console import print_line
from pipeline.common.errors import show_error
from pipeline.ray_cluster.port_probe import Answer, Endpoint, knock


def listening(processes: Iterable[psutil.Process]) -> dict[Endpoint, str]:
    """Return every port that some processes listen on, with the name of the process."""
    found = {}
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            for connection in process.net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    host = connection.laddr.ip.removeprefix("::ffff:")  # version 4, in version 6
                    found[Endpoint(host, connection.laddr.port)] = process.name()
    return found


def see_that_they_refuse(processes: Iterable[psutil.Process], only_at: str = "") -> set[int]:
    """Knock as a stranger at every port that some processes listen on.

    Args:
        processes: All of a cluster, or of its part on this machine.
        only_at: Address that all of them must be at, if not empty.

    Returns:
        The ports.

    Raises:
        OSError: If one lets strangers in, does not say that it refuses them, or is elsewhere.
    """
    found = listening(processes)
    wrong, shut = [], set()
    for door, name in sorted(found.items(), key=lambda item: (item[0].port, item[0].host)):
        answer = knock(door)
        if answer is Answer.CLOSED:  # a worker process that has ended since
            continue
        if answer is not Answer.REFUSED:
            wrong.append(f"{door} ({name}) {answer.value}")
        elif only_at and door.host != only_at:
            wrong.append(f"{door} ({name}) can be reached from other machines")
        shut.add(door.port)
    if wrong:
        raise OSError("not shut:\n" + "\n".join(wrong))
    return shut


def of_ray() -> list[psutil.Process]:
    """Return every process of Ray on this machine, those that run its tasks among them."""
    home = str(Path(ray.__file__).parent)
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            command = process.cmdline()
            if any(home in word for word in command) or process.name().startswith("ray::"):
                found.append(process)
    return found


def main() -> None:
    """Knock, and say how it went."""
    try:
        shut = see_that_they_refuse(of_ray())
    except OSError as error:
        show_error(error)
        sys.exit(2)
    if not shut:
        sys.stderr.write("error: no Ray runs here, or none that this user may look at.\n")
        sys.exit(2)
    print_line(f"all {len(shut)} ports of Ray on this machine refuse strangers")


if __name__ == "__main__":
    main()
