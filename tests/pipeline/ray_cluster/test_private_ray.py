"""A run's own Ray is its own: two on a machine never meet, and nobody else gets in."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pipeline.ray_cluster import private_ray
from pipeline.ray_cluster.loopback import ADDRESS
from pipeline.ray_cluster.port_audit import listening, see_that_they_refuse
from pipeline.ray_cluster.port_probe import Answer, Endpoint, ask_head

# A run that starts Ray, says where, and waits for its standard input to end.
RUN = """
import json, os, sys
import ray
from pipeline.ray_cluster.connection import connect

before = dict(os.environ)
connect(cpus=2)


@ray.remote
class Witness:
    def seen(self):
        from ray.util.state import list_actors

        folder = os.path.dirname(os.environ["RAY_AUTH_TOKEN_PATH"])
        return folder, sorted(actor.class_name for actor in list_actors())


witness = Witness.options(name=sys.argv[1]).remote()
folder, actors = ray.get(witness.seen.remote())
context = ray.get_runtime_context()
changed = {
    name for name in {*before, *os.environ} if before.get(name) != os.environ.get(name)
}
said = {"folder": folder, "actors": actors, "head": context.gcs_address, "changed": sorted(changed)}
print(json.dumps(said), flush=True)
sys.stdin.read()
"""


# A run whose Ray fails at first when its processes have started already.
LATE = """
import psutil
import ray._private.services as services
from pipeline.ray_cluster.connection import connect

get_node, seen = services.get_node, []


def late(*arguments, **keywords):
    seen.append(psutil.Process().children(recursive=True))
    if len(seen) == 1:
        raise ValueError("late")
    return get_node(*arguments, **keywords)


services.get_node = late
connect(cpus=1)
left = [process for process in seen[0] if process in seen[1] and process.status() != "zombie"]
print("started", len(seen[0]), "left", len(left))
"""


class Run:
    """A process with a private Ray."""

    def __init__(self, name: str, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, name],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def said(self) -> dict:
        line = self.process.stdout.readline()
        assert line.startswith("{"), line + self.process.stdout.read()
        return json.loads(line)

    def all_of_it(self) -> list[psutil.Process]:
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def end(self) -> None:
        self.process.stdin.close()
        assert self.process.wait(120) == 0


@pytest.fixture
def home(tmp_path):
    """A home folder with a token from elsewhere that others can read."""
    token = tmp_path / "home" / ".ray" / "auth_token"
    token.parent.mkdir(parents=True)
    token.write_text("f" * 64)
    token.chmod(0o644)
    return tmp_path / "home"


@pytest.mark.slow
@pytest.mark.rest
def test_two_at_once_are_shut_see_only_themselves_and_leave_nothing(home, tmp_path):
    long = tmp_path / ("long" * 20)  # too long for the path of a socket
    long.mkdir()
    environment = {"HOME": str(home), "TMPDIR": str(long)}
    taken = [socket.socket() for _ in range(2)]
    for port, holder in zip((8265, 52365), taken, strict=True):  # Ray's own choice
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind((ADDRESS, port))
            holder.listen()
        except OSError:
            pass  # somebody else has it, which is as good
    runs = [Run(name, environment) for name in ("first", "second")]

    try:
        said = [run.said() for run in runs]
        for run, own in zip(runs, said, strict=True):
            ports = listening(run.all_of_it())
            see_that_they_refuse(run.all_of_it(), only_at=ADDRESS)
            folder = Path(own["folder"])
            assert len(ports) >= 8
            assert not {door.port for door in ports} & {8265, 52365, 6379}
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
            assert own["actors"] == ["Witness"]
            assert not [name for name in own["changed"] if "AUTH" in name or "ADDRESS" in name]
        tokens = [(Path(own["folder"]) / "token").read_text() for own in said]
        heads = [Endpoint(ADDRESS, int(own["head"].rpartition(":")[2])) for own in said]
        answers = [[ask_head(head, token) for token in tokens] for head in heads]
    finally:
        for run in runs:
            run.end()
        for holder in taken:
            holder.close()

    assert answers == [[Answer.OPEN, Answer.REFUSED], [Answer.REFUSED, Answer.OPEN]]
    assert not [own["folder"] for own in said if Path(own["folder"]).exists()]
    assert [path.name for path in home.rglob("*")] == [".ray", "auth_token"]
    assert stat.S_IMODE((home / ".ray" / "auth_token").stat().st_mode) == 0o644


@pytest.mark.slow
@pytest.mark.rest
def test_a_start_that_failed_leaves_no_process_beside_the_next():
    done = subprocess.run(
        [sys.executable, "-c", LATE], capture_output=True, text=True, timeout=500, check=False
    )

    assert "Ray did not start and is restarted: late" in done.stderr
    started, left = re.search(r"started (\d+) left (\d+)", done.stdout).groups()
    assert int(started) > 2
    assert int(left) == 0


def test_the_folder_of_a_process_that_was_killed_is_removed_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(private_ray, "_bases", lambda: [tmp_path])
    monkeypatch.setattr(private_ray, "LONGEST_FOLDER", 1000)
    code = (
        "import os, signal, pathlib, sys; from pipeline.ray_cluster import private_ray\n"
        "private_ray._bases = lambda: [pathlib.Path(sys.argv[1])]\n"
        "private_ray.LONGEST_FOLDER = 1000\n"
        "print(private_ray._make_folder(), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    abandoned = Path(killed.stdout.strip())
    (tmp_path / "ratgan-ray.notours1").mkdir()
    (tmp_path / "ratgan-ray.leftover").mkdir()
    os.utime(tmp_path / "ratgan-ray.leftover", (0, 0))  # without an owner, and from long ago
    assert abandoned.exists()

    own = private_ray._make_folder()
    other = private_ray._make_folder()

    assert sorted(tmp_path.iterdir()) == sorted([own, other, tmp_path / "ratgan-ray.notours1"])
    private_ray._end(own, os.getpid() + 1)  # a fork does not remove it
    assert own.exists()


def test_folders_for_sockets_are_short_or_the_error_says_what_to_set(tmp_path, monkeypatch):
    monkeypatch.setattr(private_ray, "_bases", lambda: [tmp_path / ("x" * 80)])

    with pytest.raises(OSError, match=r"whose path has at most \d+ characters.*Set TMPDIR"):
        private_ray._make_folder()
