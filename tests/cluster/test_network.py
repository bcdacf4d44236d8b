"""A cluster over a network, as docs/cluster.md has it: on hosts of its own, through a cut line."""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from pipeline.checkpoint.store import newest_checkpoint
from pipeline.storage.folder import Folder
from tests.cluster.docs import ROOT, commands_of
from tests.cluster.hosts import NETWORK, Hosts, hosts, why_not
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.thorough,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "hosts can be made"),
]

BIN = Path(sys.executable).parent
NODES = ("head", "one", "two")


class Network:
    """The hosts, and Ray on each of them."""

    def __init__(self, made: Hosts, folder: Path) -> None:
        self.hosts, self.folder = made, folder
        *exports, head = commands_of("cluster.md", "Own machines")[:3]
        *again, worker, _ = commands_of("cluster.md", "Own machines")[3:]
        assert again == exports
        self.exports = "; ".join(exports)
        # Hosts here share the disk, and clean up after jobs where others still need it.
        places = {name: tempfile.mkdtemp(prefix="ray-", dir="/tmp") for name in NODES}
        self.lines = {
            name: f"{line} --num-cpus 1 --temp-dir {places[name]}"
            for name, line in {
                "head": head,
                "one": worker,
                "two": worker.replace("10.0.0.2", "10.0.0.3"),
            }.items()
        }
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
            "HOME": str(folder),
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        }

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def begin(self, name: str) -> subprocess.Popen:
        """Start Ray on a host, as the docs have it."""
        with self.log(name).open("ab") as log:
            line = f"{self.exports}; {self.lines[name]}"
            return self.hosts.start(name, line, self.environment, log)

    def on_head(self, command: str) -> str:
        """Run a command on the head and wait for its end."""
        with tempfile.TemporaryFile("w+") as log:
            line = (
                f"cd {ROOT}; {self.exports}; export RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265;"
            )
            process = self.hosts.start("head", f"{line} {command}", self.environment, log)
            status = process.wait(timeout=900)
            log.seek(0)
            said = log.read()
        assert status == 0, f"{command}\n{said}"
        return said

    def wait(self, what, command: str, pattern: str, times: int = 1, within_s: float = 900) -> str:
        """Repeat a command on the head until it has said something so often."""
        give_up = time.monotonic() + within_s
        while time.monotonic() < give_up:
            with tempfile.TemporaryFile("w+") as log:
                line = f"{self.exports}; export RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265;"
                self.hosts.start("head", f"{line} {command}", self.environment, log).wait(300)
                log.seek(0)
                said = log.read()
            if len(re.findall(pattern, said)) >= times:
                return said
            time.sleep(1)
        raise AssertionError(f"{what} did not come:\n{said}")

    def audit(self, name: str) -> str:
        """Have the ports of a host looked at, as the docs have it; return what was said."""
        *_, check = commands_of("cluster.md", "Own machines")
        with self.log(f"check-{name}").open("w+") as log:
            line = f"cd {ROOT}; {self.exports}; {check}"
            status = self.hosts.start(name, line, self.environment, log).wait(900)
            log.seek(0)
            said = log.read()
        assert status == 0, f"{name}: {said}"
        return said

    def trains(self, name: str) -> bool:
        """Whether a worker of training runs on a host."""
        for pid in self.hosts.processes(name):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it may have ended
                if b"TrainWorker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return True
        return False


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    folder = Path(tmp_path_factory.mktemp("network"))
    with hosts(*NODES) as made:
        ready = Network(made, folder)
        (token,) = commands_of("cluster.md", "The token")
        subprocess.run(["bash", "-c", token], env=ready.environment, check=True)
        for name in NODES:
            ready.begin(name)
            pattern = r"(?m)^ 1 node_|ALIVE" if name == "head" else "ALIVE"
            ready.wait(name, "ray list nodes", pattern, times=NODES.index(name) + 1)
        yield ready


def test_every_port_of_every_host_refuses_strangers(network):
    for name in NODES:
        assert "refuse strangers" in network.audit(name)


def test_a_run_goes_on_when_a_host_is_cut_off_and_the_host_comes_back(network, shapes):
    output = network.folder / "runs"
    flags = (
        f"--data.path {shapes.folder.location} --output {output} --data.no-flip --workers 2 "
        "--min-workers 1 --model.image-size 32 --model.base-channels 2 --optim.batch-size 12 "
        "--precision float32 --total-steps 1000000 --log-every 20 --checkpoint-every 40 "
        "--sample-every 1000000 --samples 2"
    )
    submit = "cluster/submit.sh --no-wait --submission-id"
    network.on_head(f"{submit} cut -- python jobs/train_coco.py --name cut {flags}")
    network.wait("training", "ray job logs cut", r"step [\d,]+/1,000,000")
    checkpoints = Folder(str(output / "cut" / "checkpoints"))
    wait_until(lambda: newest_checkpoint(checkpoints), "a place to go on from", seconds=300)
    hosts_at_work = [name for name in NODES if network.trains(name)]
    (away,) = [name for name in hosts_at_work if name != "head"][-1:]
    met = [
        set(re.findall(r"[\d.]+(?=:\d)", network.audit(name).split("ask for no token")[1]))
        for name in hosts_at_work
    ]

    network.hosts.cut(away)
    cut = time.monotonic()
    network.wait("a new start", "ray job logs cut", "workers 2 → 1")
    resumed_s = time.monotonic() - cut
    network.hosts.mend(away)
    network.wait("the end of the cut node", "ray list nodes", "DEAD")
    network.begin(away)
    network.wait("its return", "ray list nodes", "ALIVE", times=len(NODES))
    network.wait("growth", "ray job logs cut", "workers 1 → 2")
    network.on_head("ray job stop cut")
    said = network.wait("the end of the run", "ray job logs cut", "stopped at step")

    assert len(hosts_at_work) == 2
    assert met == [{f"{NETWORK}.{NODES.index(name) + 1}"} for name in hosts_at_work]
    assert "Restarting from the last checkpoint (1 of 3 times)" in said
    assert "capacity for 2 workers: they continue from a checkpoint" in said
    _, state = newest_checkpoint(checkpoints)
    assert f"stopped at step {state['step']:,}." in said
    sys.stdout.write(f"on {hosts_at_work}, {away} cut: went on after {resumed_s:.0f} s\n{said}")
