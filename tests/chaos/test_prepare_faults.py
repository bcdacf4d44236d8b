"""Preparation from and to a bucket that fails: what passes is survived, to the same bytes."""

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.preparation.config import PrepareConfig
from pipeline.preparation.prepare import prepare
from pipeline.preparation.sources.coco import CocoSource
from tests.chaos.commands import KILLED, Command
from tests.chaos.proxy import ChaosProxy, Request
from tests.conftest import write_coco
from tests.pipeline.preparation.test_prepare_again import files

pytestmark = [pytest.mark.slow, pytest.mark.rest]

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


def job(environment: dict[str, str], url: str) -> tuple[int, str]:
    """Prepare from the bucket into the bucket; return exit status and what was said."""
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
        timeout=600,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_server_that_fails_now_and_then_changes_no_byte(ray_session, originals, s3_server):
    environment, filesystem, local = originals
    kinds, struck = ("503", "500", "reset", "cut", "lost_answer"), set()

    def strikes(kind: str) -> Callable[[Request], bool]:
        """Of the requests of a method one in twenty, whichever of them comes when."""

        def hits(request: Request) -> bool:
            number = sum(each.method == request.method for each in proxy.requests) - 1
            hit = number % 20 == 4 * kinds.index(kind)
            struck.update({(kind, request.method)} if hit else ())
            return hit

        return hits

    with ChaosProxy(*s3_server.address) as proxy:
        for kind in kinds:
            proxy.inject(kind, times=10_000, size=100, when=strikes(kind))
        status, said = job(environment, proxy.url)
    assert status == 0, said
    assert struck >= {(kind, method) for kind in kinds for method in ("GET", "PUT")}
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
    with ChaosProxy(*s3_server.address) as proxy:
        proxy.inject("403", times=10_000)

        status, said = job(environment, proxy.url)
        asked = [*proxy.requests]

    assert status == 2
    assert "Traceback" not in said
    assert "s3://lake/prepared" in said
    assert "403" in said or "denied" in said.lower()
    assert asked
    assert [each.path for each in asked if "prepared" not in each.path] == [], "no work was done"


@pytest.mark.thorough
def test_a_preparation_killed_twenty_times_ends_in_the_same_bytes(
    ray_session, tmp_path, record_property
):
    """At random moments: in the listing, in a shard, between two, while the manifest is written."""
    dice, output, whole = random.Random(24), tmp_path / "killed", tmp_path / "whole"
    flags = ["shapes", "--count=400", "--size=32", "--image-size=32", "--sentence-dim=8"]
    flags += ["--rows-per-shard=10", "--row-group-rows=5"]
    with Command("prepare", *flags, f"--output={whole}") as command:
        assert command.wait() == 0, command.said

    def prepared() -> int:
        return len(list((output / "progress").glob("*-*.json")))

    def finish() -> None:
        with Command("prepare", *flags, f"--output={output}") as command:
            assert command.wait() == 0, command.said
        assert files(output) == files(whole)
        assert not [name for name in files(output) if name.endswith(".tmp")]

    kills = 0
    while kills < 20:
        if (output / "manifest.json").exists():  # it was faster than the kills: another
            finish()
            shutil.rmtree(output)
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
            kills += command.wait() == KILLED
    finish()

    record_property("measured", f"{kills} kills")
