"""Preparation from and to a bucket that fails: what passes is survived, to the same bytes."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.prepare import prepare
from pipeline.prepare_config import PrepareConfig
from pipeline.sources.coco import CocoSource
from tests.chaos.commands import Command
from tests.chaos.proxy import ChaosProxy, Request
from tests.conftest import write_coco
from tests.pipeline.test_prepare_again import files

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FLAGS = ["--image-size=32", "--sentence-dim=8", "--rows-per-shard=8"]


@pytest.fixture
def originals(bucket, tmp_path):
    """The same originals in a folder and in the bucket."""
    environment, filesystem = bucket
    write_coco(tmp_path, "train2017", {n: [f"picture number {n}"] for n in range(1, 25)})
    write_coco(tmp_path, "val2017", {n: [f"held out {n}"] for n in range(101, 105)})
    filesystem.put(str(tmp_path) + "/", "lake/coco", recursive=True)
    return environment, filesystem, tmp_path


def job(environment: dict[str, str], url: str) -> tuple[int, str, float]:
    """Prepare from the bucket into the bucket; return exit status, what was said, and seconds."""
    started = time.monotonic()
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "jobs/prepare.py"),
            *["coco", "--root=s3://lake/coco", "--output=s3://lake/prepared", *FLAGS],
        ],
        env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        | environment
        | {"AWS_ENDPOINT_URL": url},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr, time.monotonic() - started


def test_a_server_that_fails_now_and_then_changes_no_byte(ray_session, originals, s3_server):
    environment, filesystem, local = originals
    dice, struck = random.Random(0), []

    def strikes(kind: str) -> Callable[[Request], bool]:
        def one_in_twenty(request: Request) -> bool:
            if hit := dice.random() < 0.05:
                struck.append((kind, request.method))
            return hit

        return one_in_twenty

    with ChaosProxy(*s3_server) as proxy:
        for kind in ("503", "500", "reset", "cut", "lost_answer"):
            proxy.inject(kind, times=10_000, size=100, when=strikes(kind))
        status, said, _ = job(environment, proxy.url)
    assert status == 0, said
    assert {kind for kind, _ in struck} == {"503", "500", "reset", "cut", "lost_answer"}
    assert {"GET", "PUT"} <= {method for _, method in struck}
    assert "seen 28 = written 28 + rejected 0" in said

    prepare(
        PrepareConfig(
            source=CocoSource(root=str(local)),
            output=str(local / "prepared"),
            image_size=32,
            sentence_dim=8,
            rows_per_shard=8,
        )
    )
    shards = sorted(path.relative_to(local / "prepared") for path in local.rglob("part-*.parquet"))
    assert len(shards) == 4
    for shard in shards:
        assert filesystem.cat(f"lake/prepared/{shard}") == (local / "prepared" / shard).read_bytes()


def test_a_server_that_refuses_ends_it_early_and_clearly(originals, s3_server):
    environment, _, _ = originals
    with ChaosProxy(*s3_server) as proxy:
        proxy.inject("403", times=10_000)

        status, said, seconds = job(environment, proxy.url)

    assert status == 2
    assert "Traceback" not in said
    assert "s3://lake/prepared" in said
    assert "403" in said or "denied" in said.lower()
    assert seconds < 60, "most of it imports"


@pytest.mark.thorough
def test_a_preparation_killed_twenty_times_ends_in_the_same_bytes(
    ray_session, tmp_path, record_property
):
    """At random moments: in the listing, in a shard, between two, while the manifest is written."""
    dice, output = random.Random(24), tmp_path / "killed"
    flags = ["shapes", "--count=400", "--size=32", "--image-size=32", "--sentence-dim=8"]
    flags += ["--rows-per-shard=10", "--row-group-rows=5"]

    def prepared() -> int:
        return len(list((output / "progress").glob("*-*.json")))

    kills = 0
    while kills < 20 and not (output / "manifest.json").exists():
        before = prepared()
        with Command("prepare", *flags, f"--output={output}") as command:
            # Once in four in what comes before the first shard; else a shard or two further.
            more = dice.choice((0, 1, 1, 2))
            command.wait_for(
                lambda b=before, m=more, c=command: (
                    (m == 0 and c.lines) or prepared() >= b + m or c.process.poll() is not None
                )
            )
            time.sleep(dice.uniform(0, 0.3))
            command.kill()
        kills += 1
    with Command("prepare", *flags, f"--output={output}") as command:
        assert command.wait() == 0, command.said
    with Command("prepare", *flags, f"--output={tmp_path / 'whole'}") as command:
        assert command.wait() == 0, command.said

    assert kills == 20, "it was over before"
    assert files(output) == files(tmp_path / "whole")
    assert not [name for name in files(output) if name.endswith(".tmp")]
    record_property("measured", f"{kills} kills")
