"""Workers that hang, crash, are slow or meet NaN alone, while a real training is going on."""

import json
import re
from pathlib import Path

import pytest

from tests.chaos.commands import Command, tell_losses
from tests.chaos.runs import start
from tests.chaos.test_training_faults import options
from tests.pipeline.training.test_train import status, weights

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

HANG_S = 15  # far more than a step takes on a busy machine
# It hangs, or is lost, when this checkpoint is there.
SAVED = "after={}/struck/run/checkpoints/step-00000004/COMMITTED"


def struck(shapes, tmp_path: Path, fault: str, **changes) -> Command:
    """Train with 2 workers to the end under a fault, and return the command."""
    values = {"workers": 2, "checkpoint_every": 4, "total_steps": 12, "log_every": 1}
    values["health"] = {"hang_s": HANG_S}
    with start(options(shapes, tmp_path / "struck", **values | changes), tmp_path, fault) as job:
        assert job.wait() == 0, job.said
        return job


def test_a_stopped_worker_is_found_and_replaced_and_nan_on_one_is_left_out_by_all(
    shapes, tmp_path, two_workers_through, record_property
):
    # Worker 0 waits for it in the step after, beside the save.
    stop = f"stop@worker.step:rank=1,step=6,once={tmp_path}/done,{SAVED.format(tmp_path)}"

    job = struck(shapes, tmp_path, f"{stop};nan@worker.step:rank=1,step=9")
    said = job.said

    hung = r"worker 1 \(stopped, or its machine is gone\) hung\. Stacks: .*/hangs\. Restarting"
    assert re.search(rf"step 6 took more than \d+ s: {hung}", said), said
    assert "resuming from step 4" in said
    (left,) = (tmp_path / "struck/run/hangs").iterdir()
    assert left.name.endswith("-worker-0.txt")
    assert "all_reduce" in left.read_text() or "all_gather" in left.read_text()
    assert weights(tmp_path / "struck/run", 8) == two_workers_through[8]
    last = tmp_path / "struck/run/checkpoints/step-00000012/state.json"
    assert json.loads(last.read_text())["skipped_steps"] == 1, "worker 0 left it out too"
    assert weights(tmp_path / "struck/run", 12) != two_workers_through[12]
    tell_losses(record_property, job)
    assert status(tmp_path / "struck") == "FINISHED"


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (
            "hang@worker.step:rank=0",
            r"step 6 took more than \d+ s: worker 0 \(in pipeline\.failpoints\.reach, line \d+\)",
        ),
        (
            "segv@worker.step:rank=1",
            # It is chance whether Ray hears of its end before the other says that it is gone.
            r"worker 1 was lost \(killed, crashed or out of memory\)|connection to each other",
        ),
    ],
)
def test_a_worker_that_hangs_or_crashes_is_named_and_replaced(
    fault, told, shapes, tmp_path, two_workers_through, record_property
):
    job = struck(shapes, tmp_path, f"{fault},step=6,once={tmp_path}/done")
    said = job.said

    assert re.search(told, said), said
    assert "Restarting from the last checkpoint (1 of 3 times)" in said
    assert weights(tmp_path / "struck/run", 12) == two_workers_through[12]
    tell_losses(record_property, job)
    record_property("weights_equal", True)


def test_a_slow_worker_is_named_and_slow_saving_is_no_hang(
    shapes, tmp_path, two_workers_through, record_property
):
    # Four times over: slower than others are on a busy machine.
    slow = ";".join(4 * ["slow@worker.step:rank=1"])
    hold = f"slow@checkpoint.before_write:step=2,after={tmp_path}/go-on"
    values = {"workers": 2, "checkpoint_every": 2, "total_steps": 12, "log_every": 1}
    run = options(shapes, tmp_path / "struck", **values, health={"hang_s": HANG_S})

    with start(run, tmp_path, f"{slow};{hold}") as job:
        # A minute, and a hang would have been found.
        job.wait_for("the checkpoint of step 2 has been on its way")
        (tmp_path / "go-on").touch()
        assert job.wait() == 0, job.said
    said = job.said

    assert len(re.findall("the other workers wait for worker 1", said)) == 1, said
    assert "hung" not in said
    assert weights(tmp_path / "struck/run", 12) == two_workers_through[12]
    record_property("weights_equal", True)


def test_a_training_in_this_process_that_hangs_ends_and_goes_on_by_the_same_command(
    shapes, tmp_path, record_property
):
    values = {"checkpoint_every": 4, "total_steps": 12, "log_every": 1}
    run = options(shapes, tmp_path / "struck", **values, health={"hang_s": HANG_S})
    hang = f"hang@worker.step:step=6,once={tmp_path}/done,{SAVED.format(tmp_path)}"
    with start(run, tmp_path, hang) as hung:
        assert hung.wait() == 75, hung.said
        assert "worker 0 is in pipeline.common.failpoints.reach" in hung.said
    with start(run, tmp_path, hang) as job:
        assert job.wait() == 0, job.said
        assert "resuming from step 4" in job.said
    tell_losses(record_property, hung, job)
