"""An evaluation beside the training, under kills: each kept checkpoint counts once, in order."""

import pytest

from pipeline.checkpoint.later_scores import LaterScores
from pipeline.common.failpoints import VARIABLE
from pipeline.common.machine import usable_cpus
from pipeline.storage.folder import Folder
from pipeline.training.beside import CHILD
from tests.chaos import invariants
from tests.chaos.commands import KILLED, Command, training
from tests.chaos.test_kills import undisturbed
from tests.pipeline.training.test_beside import CURVE, curve, measured
from tests.processes import runs, started_by
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.thorough,
    pytest.mark.skipif(usable_cpus() < 2, reason="no CPU is left beside a training"),
]

STEPS = 24
FIRST_PIECE = "storage.before_rename:file=chunk-00000.safetensors"  # of an evaluation's features


def flags(shapes, output) -> list[str]:
    beside = {"protocol": "builtin", "count": 40}
    named = {f"evaluate-beside.{name}": value for name, value in beside.items()}
    # Training waits for the evaluator in a step, which is no hang.
    named |= {"sample_every": 1000, "total_steps": STEPS, "health.hang_s": 0}
    options = training(str(shapes.folder), output, **named)
    return [*options, "--evaluate-beside.few-images"]


def kept(run) -> list[int]:
    return sorted(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*"))


@pytest.fixture(scope="module")
def whole(shapes, tmp_path_factory):
    """A run that is not measured, and that nothing happens to."""
    return undisturbed(shapes, tmp_path_factory.mktemp("whole"), total_steps=STEPS)


def assert_measured(run, whole, steps: list[int]) -> None:
    assert invariants.other_weights(run, whole, STEPS) == []
    assert invariants.incomplete(run) == []
    assert invariants.left_over(run) == []
    assert [step for step, _ in measured(run)] == steps
    assert [step for step, _ in curve(run.parent, CURVE)] == steps, "each once"
    later = LaterScores.read(Folder(str(run / "checkpoints")))
    assert later.measuring is None
    assert sorted(later.scores) == [f"step-{step:08d}" for step in steps]


def test_a_killed_evaluator_is_replaced_and_its_checkpoint_stays(
    whole, shapes, tmp_path, record_property
):
    struck = tmp_path / "struck"
    # Training waits until the first checkpoint is being measured, then passes it by far.
    faults = f"kill@{FIRST_PIECE},once={struck};hang@{FIRST_PIECE},once={tmp_path}/again"
    faults += f";slow@worker.step:step=9,after={struck}"

    with Command("train_coco", *flags(shapes, tmp_path), **{VARIABLE: faults}) as command:
        command.wait_for(lambda: (tmp_path / "again").exists())
        command.wait_for("still to be measured: 3")
        during = kept(tmp_path / "run")
        (child,) = started_by(command.process.pid, CHILD)
        child.kill()
        status = command.wait()

    assert status == 0, command.said
    assert during == [4, 20, 24]
    assert_measured(tmp_path / "run", whole, [4, 20, 24])
    assert "cannot be measured" not in command.said
    record_property("weights_equal", True)


@pytest.mark.parametrize("alone", [True, False], ids=["the driver", "both"])
def test_after_a_kill_of_the_driver_the_next_start_measures_what_is_left(
    alone, whole, shapes, tmp_path, record_property
):
    struck = tmp_path / "struck"
    faults = f"hang@{FIRST_PIECE},once={struck};slow@worker.step:step=9,after={struck}"

    with Command("train_coco", *flags(shapes, tmp_path), **{VARIABLE: faults}) as command:
        command.wait_for("still to be measured: 3")
        (child,) = started_by(command.process.pid, CHILD)
        command.kill(alone=alone)
        wait_until(lambda: not runs(child), "the end of the evaluator")
        status = command.wait()
    between = kept(tmp_path / "run"), measured(tmp_path / "run")
    with Command("train_coco", *flags(shapes, tmp_path)) as again:
        ended = again.wait()

    assert status == KILLED
    assert between == ([4, 20, 24], [])
    assert ended == 0, again.said
    assert_measured(tmp_path / "run", whole, [4, 20, 24])
    record_property("weights_equal", True)
