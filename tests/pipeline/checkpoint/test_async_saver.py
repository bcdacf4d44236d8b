"""Saving in the background: the same bytes, one at a time, and no error is lost."""

import errno
import re
import threading
from functools import partial

import pytest
import torch

from pipeline.checkpoint.async_saver import Saver
from pipeline.checkpoint.gan_state import gan_tensors
from pipeline.checkpoint.host_copy import HostCopy, holding, size
from pipeline.checkpoint.store import Score, newest_checkpoint
from pipeline.common.failpoints import arm
from pipeline.storage.disk_space import DiskFullError
from pipeline.storage.folder import Folder
from pipeline.storage.lock import Lock, LockLostError, refuse_if_taken_over
from pipeline.tracking.tracker import Tracker
from pipeline.training.loop import flush_metrics_before
from tests.pipeline.checkpoint.checkpoints import (
    STATE,
    hashes,
    packer,
    stored_hashes,
    train,
    trained,
)

WEIGHTS = {"network": {"weight": torch.arange(4.0)}}


@pytest.fixture(autouse=True)
def disarmed():
    yield
    arm("")


def one_file(groups, state):
    yield "weights", groups["network"]["weight"].numpy().tobytes()


def train_on(root: Folder, steps: range, end: type[Exception] | None = None) -> None:
    """Save at each step as a training does, and end as it may."""
    with Saver(root, keep=2) as saver:
        for step in steps:
            saver.check()
            saver.save(step, WEIGHTS, one_file, {})
            if step != steps[-1]:
                saver.thread.join()
        if end is not None:
            raise end


class Gate:
    """Makes files only when it is opened."""

    def __init__(self) -> None:
        self.opened = threading.Event()

    def __call__(self, groups, state):
        assert self.opened.wait(120)
        yield from one_file(groups, state)

    def opens_for_who_waits_for(self, thread: threading.Thread) -> None:
        """Have whoever waits for the end of a thread open it first."""
        join = thread.join

        def opening(timeout: float | None = None) -> None:
            self.opened.set()
            join(timeout)

        thread.join = opening


def test_a_checkpoint_saved_in_the_background_while_training_goes_on_is_the_same_bytes(tmp_path):
    gan = trained(2)
    stored = {}
    for background in (False, True):
        root = Folder(str(tmp_path / str(background)))
        with Saver(root, keep=2, background=background) as saver:
            saver.save(2, gan_tensors(gan), packer(gan), STATE)
            if background:
                train(gan, 2)  # changes every tensor that was to be saved
        stored[background] = (root / "step-00000002").read("files.json")

    assert stored[True] == stored[False]


def test_a_save_returns_when_the_copy_is_made(tmp_path):
    root, gate = Folder(str(tmp_path)), Gate()
    tensors = {"network": {"weight": torch.arange(4.0)}}

    with Saver(root, keep=2) as saver:
        saver.save(1, tensors, gate, {})
        tensors["network"]["weight"].fill_(7)
        assert newest_checkpoint(root) is None
        gate.opened.set()

    content = newest_checkpoint(root)[0].read("weights")
    assert content == torch.arange(4.0).numpy().tobytes()


def test_the_next_save_waits_for_the_one_in_flight_and_says_so(tmp_path, capsys):
    root, gate = Folder(str(tmp_path)), Gate()
    running = []

    def watched(groups, state):
        running.append((threading.current_thread().name, first.name, first.is_alive()))
        yield from one_file(groups, state)

    with Saver(root, keep=2) as saver:
        saver.save(1, WEIGHTS, gate, {})
        first = saver.thread
        gate.opens_for_who_waits_for(first)
        saver.save(2, WEIGHTS, watched, {})

    said = capsys.readouterr().out
    assert re.search(r"step 2 waited \d+\.\d s for the checkpoint of step 1 to be written", said)
    assert running == [("checkpoint-2", "checkpoint-1", False)]
    assert root.names() == ["step-00000001", "step-00000002"]


def test_a_save_that_takes_long_is_named_while_it_is_waited_for(tmp_path, monkeypatch):
    root, gate, said = Folder(str(tmp_path)), Gate(), []

    def heard(text: str) -> None:
        said.append(text)
        gate.opened.set()

    monkeypatch.setattr("pipeline.checkpoint.async_saver.SAY_EVERY_S", 0.02)
    monkeypatch.setattr("pipeline.checkpoint.async_saver.print_line", heard)

    with Saver(root, keep=2) as saver:
        saver.save(1, WEIGHTS, gate, {})

    assert f"the checkpoint of step 1 has been on its way to {root} for" in said[0]


def test_nobody_waits_where_the_one_before_is_written(tmp_path, capsys):
    with Saver(Folder(str(tmp_path)), keep=2) as saver:
        for step in (1, 2):
            saver.save(step, WEIGHTS, one_file, {})
            saver.thread.join()

    assert not re.search("waited|on its way", capsys.readouterr().out)


def test_an_error_in_the_thread_is_raised_at_the_next_step(tmp_path):
    def broken(groups, state):
        raise PermissionError("no entry")
        yield

    with Saver(Folder(str(tmp_path)), keep=2) as saver:
        saver.save(1, WEIGHTS, broken, {})
        saver.thread.join()
        with pytest.raises(PermissionError, match="no entry"):
            saver.check()


def test_an_error_of_the_last_save_is_raised_at_the_end(tmp_path):
    arm("raise@checkpoint.before_marker")

    with pytest.raises(RuntimeError, match=r"checkpoint\.before_marker"):
        train_on(Folder(str(tmp_path)), range(1, 2))

    assert Folder(str(tmp_path)).names() == []


def test_what_ended_the_training_is_not_hidden_by_what_a_save_met(tmp_path, caplog):
    arm("raise@checkpoint.before_marker")

    with pytest.raises(ZeroDivisionError):
        train_on(Folder(str(tmp_path)), range(1, 2), end=ZeroDivisionError)

    assert "the checkpoint of step 1 failed too" in caplog.text


def test_the_end_of_training_waits_for_the_last_checkpoint_even_after_an_error(tmp_path):
    root, gate = Folder(str(tmp_path)), Gate()

    with pytest.raises(ZeroDivisionError), Saver(root, keep=2) as saver:  # noqa: PT012
        saver.save(1, WEIGHTS, gate, {})
        gate.opens_for_who_waits_for(saver.thread)
        raise ZeroDivisionError

    assert newest_checkpoint(root)[1]["step"] == 1


def test_a_full_disk_stops_the_training_at_the_third_time_in_a_row(tmp_path, capsys):
    root = Folder(str(tmp_path))
    arm(";".join(f"full@checkpoint.before_write:{step}" for step in (2, 3, 5, 6, 7)))

    with pytest.raises(DiskFullError, match="no room for the checkpoint of step 7") as caught:
        train_on(root, range(1, 9))

    assert caught.value.errno == errno.ENOSPC
    said = capsys.readouterr().out
    assert said.count("Training goes on without it") == 4
    assert said.count("(1 in a row; it stops after 3)") == 2
    assert root.names() == ["step-00000001", "step-00000004"]
    assert newest_checkpoint(root)[1]["step"] == 4


def test_a_training_whose_last_step_found_no_room_does_not_end_as_if_it_were_saved(tmp_path):
    arm("full@checkpoint.before_marker:2")

    with pytest.raises(DiskFullError, match="step 2"):
        train_on(Folder(str(tmp_path)), range(1, 3))

    assert Folder(str(tmp_path)).names() == ["step-00000001"]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("generator", r"step 2 was not written: 1 of 3 numbers of generator/to_rgb\.bias are NaN"),
        ("average", r"numbers of average/to_rgb\.bias are NaN or infinite"),
        ("generator_optimizer", r"numbers of generator_optimizer/to_rgb\.bias/exp_avg are NaN"),
    ],
)
def test_numbers_that_are_not_finite_are_never_saved(tmp_path, part, message):
    root, gan = Folder(str(tmp_path)), trained(1)
    with torch.no_grad():
        if part == "generator_optimizer":
            state = gan.generator_optimizer.state[gan.generator.to_rgb.bias]
            state["exp_avg"][1] = float("nan")
        else:
            getattr(gan, part).to_rgb.bias[1] = float("inf")

    with pytest.raises(ValueError, match=message), Saver(root, keep=2) as saver:
        saver.save(2, gan_tensors(gan), packer(gan), STATE)

    assert root.names() == []


def test_score_and_state_reach_the_checkpoint(tmp_path):
    root = Folder(str(tmp_path))

    with Saver(root, keep=2) as saver:
        saver.save(3, WEIGHTS, one_file, {"run": "r"}, Score("eval/fid", 4.0, False))

    state = newest_checkpoint(root)[1]
    assert (state["run"], state["step"], state["best"]["value"]) == ("r", 3, 4.0)


def test_host_memory_is_taken_once_and_is_as_large_as_the_tensors():
    gan = trained(1)
    copy = HostCopy()

    first = copy.take(gan_tensors(gan))
    places = {t.data_ptr() for tensors in first.values() for t in tensors.values()}
    train(gan, 1)
    second = copy.take(gan_tensors(gan))

    assert {t.data_ptr() for tensors in second.values() for t in tensors.values()} == places
    parameters = sum(p.nbytes for p in gan.generator.parameters())
    judges = sum(p.nbytes for p in gan.discriminator.parameters())
    counts = 4 * len([*gan.generator.parameters(), *gan.discriminator.parameters()])
    assert size(second) == 4 * parameters + 3 * judges + counts
    assert torch.equal(second["generator"]["to_rgb.bias"], gan.generator.to_rgb.bias)


def test_a_network_that_holds_other_tensors_shares_them_and_leaves_the_first_alone():
    gan = trained(1)
    before = hashes(gan, 1)
    tensors = {name: t + 1 for name, t in gan.generator.state_dict().items()}

    twin = holding(gan.generator, tensors)

    assert {t.data_ptr() for t in twin.state_dict().values()} == {
        t.data_ptr() for t in tensors.values()
    }
    assert hashes(gan, 1) == before
    assert twin.arguments == gan.generator.arguments


def test_what_is_stored_is_what_was_handed_over(tmp_path):
    gan = trained(1)

    with Saver(Folder(str(tmp_path)), keep=2) as saver:
        saver.save(1, gan_tensors(gan), packer(gan), STATE)

    stored = stored_hashes(Folder(str(tmp_path)) / "step-00000001")
    assert stored == hashes(gan, 1)
    assert len(stored) == 7


def test_a_start_whose_run_was_taken_over_writes_no_checkpoint_any_more(tmp_path):
    run = Folder(str(tmp_path))

    def train_on_after_a_later_start(lock: Lock) -> None:
        before = partial(refuse_if_taken_over, run, lock.number)
        with Saver(run / "checkpoints", keep=2, before=before) as saver:
            saver.save(1, WEIGHTS, one_file, {})
            saver.finish()
            run.create(f".lock-{lock.number + 1:08d}", b"{}")  # while this one was suspended
            saver.save(2, WEIGHTS, one_file, {})

    with Lock(run, "train") as lock, pytest.raises(LockLostError, match="taken over by a later"):
        train_on_after_a_later_start(lock)

    assert newest_checkpoint(run / "checkpoints")[1]["step"] == 1
    assert (run / "checkpoints").names() == ["step-00000001"]


def test_records_that_no_longer_fit_on_the_disk_cost_that_checkpoint_only(tmp_path, capsys):
    class Full(Tracker):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    run = Folder(str(tmp_path))
    with Saver(run / "checkpoints", keep=2) as saver:
        saver.save(1, WEIGHTS, flush_metrics_before(Full(run), one_file), {})
        saver.finish()
        saver.save(2, WEIGHTS, flush_metrics_before(Tracker(run), one_file), {})

    assert "Training goes on without it (1 in a row" in capsys.readouterr().out
    assert (run / "checkpoints").names() == ["step-00000002"]
