"""The services of cluster/compose.yaml as processes of a test: their own commands and environment.

No Docker: what compose gives them (variables, the names of the others, volumes) is put in by hand.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import fsspec
import requests
import yaml

from tests.mlflow_server import reserved_port
from tests.waiting import wait_until

COMPOSE = Path(__file__).parents[1] / "cluster" / "compose.yaml"
PATIENCE_S = 300
KEY, SECRET = "test", "canary-secret-0123456789"
# One for each that listens; the S3 port is the one that compose publishes.
PORTS = ["s3.port", "s3.port.grpc"] + [
    f"{part}.port{kind}" for part in ("master", "volume", "filer") for kind in ("", ".grpc")
]


def weed() -> str | None:
    """The program of SeaweedFS: a wheel brings it beside this Python."""
    return shutil.which("weed", path=str(Path(sys.executable).parent))


def service(name: str, put_in: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Command and environment of a service of compose.

    Args:
        name: In compose.yaml.
        put_in: What stands there, and what stands for it here.

    Raises:
        AssertionError: If something of the text is not there.
    """
    found = yaml.safe_load(COMPOSE.read_text())["services"][name]
    return [filled(word, put_in) for word in found["command"]], {
        variable: filled(value, put_in) for variable, value in found["environment"].items()
    }


def filled(text: str, put_in: Mapping[str, str]) -> str:
    for old, new in put_in.items():
        text = re.sub(rf"\$\{{{old}:\?[^}}]*\}}", new, text).replace(old, new)
    assert "${" not in text, f"{text}: nothing was put in"
    return text


class Process:
    """A program that is started with a log, and ended with all that it started, by id."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path, **how: Any):
        self.log = log
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                command,
                env={k: v for k, v in os.environ.items() if not k.startswith("AWS_")} | environment,
                cwd=log.parent,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                **how,
            )

    def wait_for(self, ready: Any, what: str) -> None:
        def looked() -> bool:
            assert self.process.poll() is None, f"no {what}:\n{self.log.read_text()[-4000:]}"
            with suppress(OSError):  # of requests too
                return bool(ready())
            return False

        wait_until(looked, what, PATIENCE_S)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=PATIENCE_S)


class S3Server:
    """What tests ask of an S3 server."""

    address: tuple[str, int]

    @property
    def environment(self) -> dict[str, str]:
        """What leads a client to it."""
        return client("http://{}:{}".format(*self.address))

    @property
    def options(self) -> dict[str, str]:
        """What fsspec reaches it with."""
        return {"endpoint_url": self.environment["AWS_ENDPOINT_URL"], "key": KEY, "secret": SECRET}

    def file_system(self) -> Any:
        """A file system on it that remembers nothing: fsspec has but one."""
        filesystem = fsspec.filesystem("s3", **self.options)
        filesystem.invalidate_cache()
        return filesystem

    def empty_bucket(self, bucket: str) -> Any:
        """Make a bucket, or remove all that is in it; return a file system."""
        filesystem = self.file_system()
        if not self._emptied(bucket):
            filesystem.mkdir(bucket)
        return filesystem

    def _emptied(self, bucket: str) -> bool:
        """Remove all that is in a bucket, or return that there is no such bucket."""
        raise NotImplementedError

    def wait(self) -> Self:
        """Return when it stores what is sent."""
        return self

    def kill(self) -> None:
        raise NotImplementedError


class Moto(S3Server):
    """One that words its answers as Amazon does, and takes every key."""

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer

        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self.server.start()
        self.address = self.server.get_host_and_port()

    def _emptied(self, bucket: str) -> bool:
        endpoint = self.environment["AWS_ENDPOINT_URL"]
        requests.post(f"{endpoint}/moto-api/reset", timeout=PATIENCE_S).raise_for_status()
        return False

    def kill(self) -> None:
        self.server.stop()


class SeaweedFS(S3Server):
    """The S3 server of compose, on this machine's loopback, with ports of its own.

    Args:
        folder: Where it keeps its data.
        before: Words that stand before its command, as those that enter a network namespace.
        own_ports: Whether it listens on ports of its own, or on those of compose.
    """

    def __init__(self, folder: Path, before: tuple[str, ...] = (), *, own_ports: bool = True):
        put_in = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "/data": str(folder)}
        command, environment = service("s3", put_in)
        self.ports, self.held = {}, [reserved_port() for _ in PORTS if own_ports]
        if own_ports:
            self.ports = {n: s.getsockname()[1] for n, s in zip(PORTS, self.held, strict=True)}
            command += [f"-{name}={port}" for name, port in self.ports.items()]
            # Small files of its own: the disk may be nearly full.
            command += ["-s3.ip.bind=127.0.0.1", "-master.volumeSizeLimitMB=32"]
        folder.mkdir(parents=True, exist_ok=True)
        program = [*before, str(weed()), "-logtostderr=true", *command]
        self.address = ("127.0.0.1", self.ports.get("s3.port", 8333))
        # It also makes files beside its data.
        self.server = Process(program, environment | {"TMPDIR": str(folder)}, folder / "log")

    def wait(self) -> Self:
        """Return when it stores what is sent: it answers before its disk is ready."""
        s3, master = self.ports["s3.port"], self.ports["master.port"]

        def ready() -> bool:
            disks = requests.get(f"http://127.0.0.1:{master}/dir/status", timeout=PATIENCE_S).json()
            return disks["Topology"]["Max"] and requests.get(
                f"http://127.0.0.1:{s3}/healthz", timeout=PATIENCE_S
            )

        self.server.wait_for(ready, "SeaweedFS")
        return self

    def _emptied(self, bucket: str) -> bool:
        # By the filer, which also takes away uploads that were never completed.
        filer = f"http://127.0.0.1:{self.ports['filer.port']}"
        found = requests.get(
            f"{filer}/buckets/{bucket}/?limit=10000",
            headers={"Accept": "application/json"},
            timeout=PATIENCE_S,
        )
        for entry in (found.json()["Entries"] or []) if found.ok else []:
            place = f"{filer}{entry['FullPath']}?recursive=true"
            requests.delete(place, timeout=PATIENCE_S).raise_for_status()
        return found.ok

    def kill(self) -> None:
        self.server.kill()
        for port in self.ports.values() or (8080, 18080, 8333, 18333, 8888, 18888, 9333, 19333):
            for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # it takes no other folder
                path.unlink(missing_ok=True)
        for each in self.held:
            each.close()


def postgres() -> Path | None:
    """The folder of PostgreSQL's programs; Debian puts it on nobody's path."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin/initdb"), shutil.which("initdb")]
    return next((Path(each).resolve().parent for each in found if each), None)


class Postgres:
    """A database server on this machine's loopback, with a database and its owner as in compose.

    Args:
        folder: Where it keeps its data; its path has to be short, and it is given to another user:
            PostgreSQL does not run as root.
        user: Owner of the database, which has the same name.
        password: Of the owner.
    """

    def __init__(self, folder: Path, user: str, password: str) -> None:
        programs, data = postgres(), folder / "data"
        self.held = reserved_port()
        self.port = self.held.getsockname()[1]
        as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            as_user = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            shutil.chown(folder, "nobody")
        secret = folder / "password"
        secret.write_text(password)
        secret.chmod(0o644)  # in a folder that nobody else enters
        made = [f"{programs}/initdb", "--auth=scram-sha-256", "--no-sync", f"--pgdata={data}"]
        self._run([*made, f"--username={user}", f"--pwfile={secret}"], **as_user)
        where = ["-h", "127.0.0.1", "-p", str(self.port)]
        self.server = Process(
            [f"{programs}/postgres", "-D", str(data), *where, "-k", str(folder), "-F"],
            {},
            folder / "log",
            **as_user,
        )
        ready = [f"{programs}/pg_isready", *where]
        self.server.wait_for(
            lambda: not subprocess.run(ready, capture_output=True).returncode, "PostgreSQL"
        )
        key = {"env": os.environ | {"PGPASSWORD": password}}
        self._run([f"{programs}/createdb", *where, f"--username={user}", user], **key)

    def _run(self, command: list[str], **how: Any) -> None:
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", **how)
        assert not done.returncode, done.stderr

    def kill(self) -> None:
        self.server.kill()
        self.held.close()


def client(endpoint: str) -> dict[str, str]:
    """The environment of a client of an S3 server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
