"""The GPU campaign, run through at toy size without a GPU."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu import RUNNING, TOY, Campaign, Case, Size, plan

ROOT = Path(__file__).parents[2]
ONE_SIZE = replace(TOY, batch_sizes=(2,))


def campaign(path: Path, size: Size = ONE_SIZE, left_s=lambda: 600.0) -> Campaign:
    return Campaign(path, size, torch.device("cpu"), left_s)


def cases(path: Path) -> list[dict]:
    return json.loads(path.read_text())["cases"]


def test_the_plan_has_every_case_once_and_what_decides_most_first():
    whole = plan(Size())

    assert len(whole) == len(set(whole)) == 1 + 3 * 2 * 3 * 2
    assert [(case.way, case.batch_size, case.precision) for case in whole[:5]] == [
        ("reference", 24, "float32"),
        *[("eager", 24, "bfloat16")] * 2,
        *[("graph", 24, "bfloat16")] * 2,
    ]
    assert whole[-1].way == "compiled blocks"
    for case in whole[1:]:  # each is held against the same step, done eagerly
        assert whole.index(replace(case, way="eager")) <= whole.index(case)


@pytest.mark.rest
def test_what_is_measured_repeats_resumes_and_is_written_at_once(tmp_path, capsys):
    path, left_s = tmp_path / "toy.json", iter([600.0] * 5)

    campaign(path, left_s=lambda: next(left_s, 0.0)).run()

    whole = plan(ONE_SIZE)
    written = cases(path)
    assert [Case(**{key: each[key] for key in asdict(whole[0])}) for each in written] == whole
    assert json.loads(path.read_text())["ceilings"].keys() == {
        "bfloat16_flops_per_s",
        "float32_flops_per_s",
        "bytes_per_s",
    }
    reference, first, last, *graphs = written[:5]
    assert reference["images_per_s"] > 0
    for each in (first, last):
        assert (each["repeat_difference"], each["resume_difference"]) == (0, 0)
        assert each["roofline_share"] > 0
        assert len(each["longest"]) == 10
        assert each["kernels"] > 500
    for each in graphs:
        assert each["failed"] == "RuntimeError: a CUDA graph needs a CUDA device"
    assert {each["failed"] for each in written[5:]} == {"no time was left"}
    assert capsys.readouterr().out.count("left out: ") == len(whole) - 3


def test_a_process_that_ends_in_a_case_leaves_the_rest_to_the_next(tmp_path, monkeypatch):
    def measure(self, case, measured):
        if case.way == "graph":
            raise SystemExit("a wrong address")
        measured["failed"] = "not now"

    monkeypatch.setattr(Campaign, "_measure", measure)
    path = tmp_path / "toy.json"
    for done in (4, 5):  # both graphs in bfloat16
        with pytest.raises(SystemExit):
            campaign(path).run()
        assert len(cases(path)) == done
        assert cases(path)[-1]["failed"] == RUNNING


@pytest.mark.rest
def test_a_case_that_does_not_end_is_ended(tmp_path, monkeypatch):
    def measure(self, case, measured):
        while True:
            try:
                torch.ones(1)
            except Exception:  # as a compiler may: it must not keep the end from coming
                continue

    monkeypatch.setattr(Campaign, "_measure", measure)
    monkeypatch.setattr(gpu, "CASE_S", 0.01)
    path = tmp_path / "toy.json"

    campaign(path).run()

    assert {each["failed"] for each in cases(path)} == {"it took longer than the 0 s it had"}


def test_a_state_that_differs_is_told():
    expected = [torch.tensor([2.0, 4.0]), torch.tensor(0.0)]

    assert gpu.farthest(expected, expected) == 0
    assert gpu.farthest([torch.tensor([2.0, 3.0]), torch.tensor(0.0)], expected) == 0.25


@pytest.mark.slow
@pytest.mark.rest
def test_the_command_needs_plain_torch(tmp_path):
    missing = ("mlflow", "pyarrow", "pydantic", "ray")
    block = f"import sys; sys.modules.update(dict.fromkeys({missing}))"  # a None cannot be imported
    (tmp_path / "sitecustomize.py").write_text(block)
    command = [sys.executable, "benchmarks/gpu.py", "--minutes", "0", "--results", str(tmp_path)]

    subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(tmp_path)}, check=True)

    (path,) = tmp_path.glob("*.json")
    assert [each["failed"] for each in cases(path)] == ["no time was left"] * len(plan(TOY))


@pytest.mark.slow
@pytest.mark.rest
def test_a_campaign_that_cannot_begin_says_so(tmp_path):
    block = "import sys\nif '--until' in sys.orig_argv: sys.modules['benchmarks.workload'] = None"
    (tmp_path / "sitecustomize.py").write_text(block)
    command = [sys.executable, "benchmarks/gpu.py", "--minutes", "1", "--results", str(tmp_path)]

    ended = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 1
    assert "no case was begun" in ended.stderr
    assert "written to" not in ended.stdout
