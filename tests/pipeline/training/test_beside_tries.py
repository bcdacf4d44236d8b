"""What an evaluation beside the training tries again, passes over, and leaves to the next start."""

import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from pipeline.checkpoint.store import STATE, commit, waiting
from pipeline.config import TrainConfig
from pipeline.distributed.graceful_stop import StoppedError, StopRequests
from pipeline.evaluation.report import REPORT
from pipeline.storage.folder import Folder
from pipeline.training import beside
from pipeline.training.beside import TRIES, BesideEvaluation
from tests.pipeline.training.test_beside import BESIDE

FIRST, SECOND = "step-00000010", "step-00000020"


class Tried(BesideEvaluation):
    """Evaluates the checkpoints of a run of 20 steps with what a test does for the child.

    Attributes:
        started: Checkpoints of which a child was started.
        child: Is given the folder of the report.
    """

    def __init__(self, output, steps: tuple[int, ...] = (10, 20)) -> None:
        run = Folder(str(output)) / "run"
        for step in steps:
            commit(run / "checkpoints", [("weights", b"w")], step=step, state={}, keep=5)
        config = TrainConfig(output=str(output), total_steps=20, evaluate_beside=BESIDE)
        lock = SimpleNamespace(check=lambda: None)
        job = SimpleNamespace(stop=StopRequests(run), lock=lock, tracker=None)
        super().__init__(config, run, 20, job)
        self.started: list[str] = []
        self.child: Callable[[Folder], object] = lambda report: None

    def _child(self, config) -> str:
        self.started.append(config.model.rpartition("/")[2])
        self.child(Folder(config.output))
        return "its process ended with -9: Killed"

    def features(self) -> list[str]:
        return (self.run / "evaluation").names()


def write_features(report: Folder) -> None:
    (report / "features").write("chunk-00000.safetensors", b"f")


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(beside, "LOOK_EVERY_S", 0.01)


@pytest.fixture
def broken(monkeypatch) -> Callable[[Callable[[], bool]], None]:
    def fail(when: Callable[[], bool]) -> None:
        def look(root, later):
            if when():
                raise OSError("503 SlowDown")
            return waiting(root, later)

        monkeypatch.setattr(beside, "waiting", look)

    return fail


def test_tries_of_a_checkpoint_that_is_gone_are_not_counted_for_the_next(tmp_path, capsys):
    tried = Tried(tmp_path)
    for _ in range(TRIES - 1):
        tried.look()
    (tried.root / FIRST).remove()

    for _ in range(TRIES + 2):
        tried.look()

    assert tried.started == [FIRST] * (TRIES - 1) + [SECOND] * TRIES
    said = capsys.readouterr().out
    assert said.count("cannot be measured beside the training") == 1
    assert f"checkpoint {SECOND} cannot be measured beside the training: its process" in said


@pytest.mark.parametrize("state", [b"{\0", b"[]", b'{"extra": true}', None])
def test_a_checkpoint_whose_state_cannot_be_read_holds_no_other_up(tmp_path, capsys, state):
    tried = Tried(tmp_path)
    if state is None:
        (tried.root / FIRST).delete(STATE)
    else:
        (tried.root / FIRST).write(STATE, state)

    for _ in range(TRIES + 1):
        tried.look()

    assert tried.started == [SECOND]
    assert f"checkpoint {FIRST} cannot be measured" in capsys.readouterr().out
    assert tried.failures == 0


def test_a_report_that_cannot_be_read_is_made_again_by_the_next_start(tmp_path, capsys):
    tried = Tried(tmp_path)
    tried.child = lambda report: report.write(REPORT, b"{\0")

    for _ in range(TRIES):
        tried.look()

    assert "report.json is not valid JSON" in capsys.readouterr().out
    assert tried.features() == []
    assert [name for name, _ in waiting(tried.root, tried.later)] == [SECOND]


def test_what_is_left_of_a_checkpoint_is_removed_when_it_is_not_measured_again(tmp_path):
    tried = Tried(tmp_path)
    tried.child = write_features
    seen = []
    for _ in range(TRIES):
        seen.append(len(tried.features()))
        tried.look()
    seen.append(len(tried.features()))

    def roll_back(report: Folder) -> None:
        write_features(report)
        (tried.root / SECOND).remove()

    tried.child = roll_back
    tried.look()

    assert seen == [0, 1, 1, 0], "until it is passed over, it is used"
    assert tried.started == [FIRST] * TRIES + [SECOND]
    assert tried.features() == []


def test_a_stop_leaves_what_the_next_start_goes_on_with(tmp_path):
    tried = Tried(tmp_path)

    def stop(report: Folder) -> None:
        write_features(report)
        tried.job.stop.asked = True

    tried.child = stop

    assert not tried.look()
    assert len(tried.features()) == 1
    assert len(waiting(tried.root, tried.later)) == 2


@pytest.mark.parametrize("steps", [(10, 20), ()], ids=["some left", "none left"])
def test_a_run_that_was_stopped_is_finished_if_nothing_is_left(often, tmp_path, capsys, steps):
    tried = Tried(tmp_path, steps)
    tried.job.stop.asked = True

    with tried:
        if steps:
            with pytest.raises(StoppedError) as stopped:
                tried.finish()
            assert stopped.value.step == 20
        else:
            tried.finish()

    assert "Ctrl-C" not in capsys.readouterr().out


def test_a_storage_that_stays_broken_ends_the_run_with_one_error(often, broken, tmp_path):
    tried = Tried(tmp_path)
    broken(lambda: True)

    with tried, pytest.raises(OSError, match=r"503 SlowDown\. The same command measures them"):
        tried.finish()

    assert tried.started == []


def test_a_storage_that_is_broken_while_the_run_trains_is_asked_again(broken, tmp_path):
    tried = Tried(tmp_path)
    faults = iter([True] * 10 + [False])
    broken(lambda: next(faults))

    looks = [tried.look() for _ in range(11)]

    assert all(looks)
    assert tried.started == [FIRST]


def test_a_fault_while_what_is_left_is_counted_does_not_end_the_run(often, broken, tmp_path):
    tried = Tried(tmp_path, ())
    broken(lambda: threading.current_thread() is threading.main_thread())

    with tried:
        tried.finish()

    assert tried.complete
