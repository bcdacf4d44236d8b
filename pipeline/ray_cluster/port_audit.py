"""Audit a Ray cluster: probe every port its processes listen on, without a token.

    python -m pipeline.ray_cluster.port_audit    # on each machine of a cluster

The ports at which the workers of a training meet know no token. They are told apart, and may be at
one address of the machine only. That of jobs/serve.py may answer without a token on loopback only.
"""

import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import psutil
import ray

from pipeline.common.console import print_line
from pipeline.common.errors import show_error
from pipeline.common.redaction import redacted_output
from pipeline.ray_cluster.port_probe import Answer, Endpoint, knock

ALL_ADDRESSES = ("0.0.0.0", "::")
LOOPBACK = ("127.0.0.1", "::1")
TRAINS = "TrainWorker"  # in the name that Ray gives a process
SERVES = ("SERVE_PROXY", "ProxyActor")  # while it waits, and while it works


class Ports(NamedTuple):
    """What some processes listen on.

    Attributes:
        shut: That refuse strangers.
        training: At which workers of a training meet, who ask for no token.
        serving: That serve pictures to this machine without a token.
    """

    shut: set[int]
    training: set[Endpoint]
    serving: set[Endpoint]


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


def see_that_they_refuse(processes: Iterable[psutil.Process], only_at: str = "") -> Ports:
    """Knock as a stranger at every port that some processes listen on.

    Args:
        processes: All of a cluster, or of its part on this machine.
        only_at: Address that all of them must be at, if not empty.

    Raises:
        OSError: If one lets strangers in, does not say that it refuses them, or is elsewhere.
    """
    found = listening(processes)
    wrong, ports = [], Ports(set(), set(), set())
    for door, name in sorted(found.items(), key=lambda item: (item[0].port, item[0].host)):
        answer = knock(door)
        if answer is Answer.CLOSED:  # a worker process that has ended since
            continue
        meeting = answer is Answer.UNCLEAR and TRAINS in name
        serving = (
            answer is Answer.OPEN and any(each in name for each in SERVES) and door.host in LOOPBACK
        )
        known = serving or (meeting and door.host not in ALL_ADDRESSES)
        if answer is not Answer.REFUSED and not known:
            wrong.append(f"{door} ({name}) {answer.value}")
        elif only_at and door.host != only_at:
            wrong.append(f"{door} ({name}) can be reached from other machines")
        elif meeting:
            ports.training.add(door)
        elif serving:
            ports.serving.add(door)
        else:
            ports.shut.add(door.port)
    if wrong:
        raise OSError("not shut:\n" + "\n".join(wrong))
    return ports


def of_ray() -> set[psutil.Process]:
    """Return every process of Ray on this machine, and what these started: its tasks and jobs."""
    home = str(Path(ray.__file__).parent)
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            command = process.cmdline()
            if any(home in word for word in command) or process.name().startswith("ray::"):
                found.update((process, *process.children(recursive=True)))
    return found


@redacted_output()
def main() -> None:
    """Knock, and say how it went."""
    try:
        ports = see_that_they_refuse(of_ray())
    except OSError as error:
        show_error(error)
        sys.exit(2)
    if not ports.shut:
        sys.stderr.write("error: no Ray runs here, or none that this user may look at.\n")
        sys.exit(2)
    print_line(f"all {len(ports.shut)} ports of Ray on this machine refuse strangers")
    if ports.training:
        print_line(
            f"{len(ports.training)} ports of a training ask for no token: let nobody but the "
            f"machines of the cluster reach {', '.join(sorted(map(str, ports.training)))}"
        )
    for door in ports.serving:
        print_line(f"{door} serves pictures to this machine, without a token")


if __name__ == "__main__":
    main()
