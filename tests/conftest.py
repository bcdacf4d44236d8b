"""What tests share: an environment of their own, a Ray, servers, and small prepared datasets.

Of each process of pytest: several run at a time, and none sees what another has started.
"""

import atexit
import fcntl
import functools
import io
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.services import Moto, SeaweedFS, weed

# Before anything of these is imported: quiet, offline, and no tracker, cluster or token but the
# test's own.
for name in ("MLFLOW_TRACKING_URI", *(name for name in os.environ if name.startswith("RAY_"))):
    os.environ.pop(name, None)
os.environ["HF_HUB_OFFLINE"] = "1"
# A shell lets what it runs in the background ignore Ctrl-C, and that would be inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Tests run beside each other, and the last bit of a sum depends on the number of threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Matplotlib lists the machine's fonts there once, which takes it seconds.
os.environ.setdefault("MPLCONFIGDIR", str(Path.home() / ".cache" / "ratgan-tests-matplotlib"))
os.environ["HOME"] = tempfile.mkdtemp(prefix="ratgan-tests-home-")
atexit.register(shutil.rmtree, os.environ["HOME"], ignore_errors=True)
# Processes that tests fork have imported this already, which takes seconds otherwise.
multiprocessing.set_forkserver_preload(["benchmarks.equality", "pipeline.training.train"])

JOBS = Path(__file__).parents[1] / "jobs"
MODULE = 'scope="module"'  # of a fixture that the tests of a file share
# Datasets in their original layouts (coco/annotations/…), for the tests that want real images.
REAL_DATA = Path(os.environ.get("RATGAN_TEST_DATA", "no-test-data"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Let the long ones come first where tests run beside each other: a short one ends last."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep tests together that share a fixture where tests run beside each other."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFixture(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            # One Ray for all tests: each takes a tenth of a core as long as it is there.
            return "ray" if holds(file, "ray_session") else file if holds(file, MODULE) else nodeid

    return ByFixture(config, log)


@functools.cache
def holds(file: str, text: str) -> bool:
    return text in (Path(__file__).parents[1] / file).read_text()


@pytest.fixture(autouse=True)
def no_log_of_another_work(monkeypatch):
    """A process has one log, and a work of an earlier test has named it."""
    monkeypatch.setattr("pipeline.common.screen._log", None)
    monkeypatch.setattr("pipeline.common.screen._keep", None)


@pytest.fixture(scope="session", autouse=True)
def room_in_every_ray():
    """A Ray that a test starts stays for the next, which may need two workers and a reader."""
    from pipeline.ray_cluster import private_ray

    start = private_ray.start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(private_ray, "start", lambda *, cpus: start(cpus=max(cpus, 3)))
        yield


@pytest.fixture(scope="session")
def ray_session():
    """One Ray on this machine: two workers and one that reads."""
    import ray

    from pipeline.ray_cluster.connection import connect

    connect(cpus=3)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def shapes(tmp_path_factory, worker_id):
    """A prepared dataset of 150 shapes, some in pairs, at 32 px: one for all processes."""
    from pipeline.data.dataset import PreparedDataset

    own = tmp_path_factory.getbasetemp()
    output = (own if worker_id == "master" else own.parent) / "shapes"
    with Path(f"{output}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # In a process of its own, whose Ray ends with it. It finds it done if another was first.
        options = (
            "--count=150 --size=32 --validation=0.2 --image-size=32 --margin=1.25 "
            "--sentence-dim=16 --rows-per-shard=50 --row-group-rows=16"
        )
        job = [sys.executable, str(JOBS / "prepare.py"), "shapes", f"--output={output}"]
        subprocess.run([*job, *options.split()], check=True, stdout=subprocess.DEVNULL)
    return PreparedDataset(str(output))


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory):
    """A real MLflow server that keeps artifacts itself, as a team's does."""
    from tests.mlflow_server import MlflowServer

    server = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """The S3 server of compose.yaml, at ports of its own; where it has no wheel, another one."""
    server = SeaweedFS(tmp_path_factory.mktemp("s3")) if weed() else Moto()
    try:
        yield server.wait()
    finally:
        server.kill()


@pytest.fixture
def bucket(s3_server):
    """An empty bucket `lake`: the environment that leads there, and its file system."""
    return s3_server.environment, s3_server.empty_bucket("lake")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def photo(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    """A small RGB picture with some structure."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, file_format: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def write_coco(root: Path, split: str, captions: dict[int, list[str]], bad: set[int] = frozenset()):
    """Lay out a COCO split; the images in `bad` are cut short."""
    (root / split).mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    content = {"images": [], "annotations": []}
    number = 0
    for image_id, texts in captions.items():
        name = f"{image_id:012d}.jpg"
        content["images"].append({"id": image_id, "file_name": name})
        jpeg = encoded(photo(seed=image_id))
        (root / split / name).write_bytes(jpeg[: len(jpeg) // 2] if image_id in bad else jpeg)
        for text in texts:
            number += 1
            content["annotations"].append({"id": number, "image_id": image_id, "caption": text})
    (root / "annotations" / f"captions_{split}.json").write_text(json.dumps(content))
    return content
