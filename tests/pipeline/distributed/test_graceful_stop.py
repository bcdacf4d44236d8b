"""Graceful stop: a signal reaches the workers of this start, and of no other."""

import errno
import os
import signal

import pytest

from pipeline.distributed import graceful_stop
from pipeline.distributed.graceful_stop import REQUEST, StopRequests, StopWatch
from pipeline.storage.folder import Folder
from tests.waiting import wait_until


class Looks:
    """Counts how often a watch has looked; it is no reason to stop."""

    def __init__(self) -> None:
        self.begun = 0

    def __call__(self) -> str:
        self.begun += 1
        return ""

    def wait_for(self, count: int) -> None:
        """Wait until so many more have ended."""
        after = self.begun + count + 1
        wait_until(lambda: self.begun >= after, "looks for a request")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_the_worker_and_leaves_nothing_behind(number, tmp_path, capsys):
    run = Folder(str(tmp_path))
    requests = StopRequests(run)
    before = signal.getsignal(number)
    run.write_json(REQUEST, {"start": "one that was killed"})

    with requests.taken(), StopWatch(run, requests.token, every_s=0.01) as watch:
        assert not watch.asked
        os.kill(os.getpid(), number)
        wait_until(lambda: watch.asked, "the worker is asked")

    assert (requests.asked, requests.number) == (True, number)
    assert "stop requested: a checkpoint is saved" in capsys.readouterr().out
    assert signal.getsignal(number) == before
    assert not run.exists(REQUEST)


def test_a_second_signal_stops_at_once(tmp_path):
    run = Folder(str(tmp_path))

    with StopRequests(run).taken():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        wait_until(lambda: run.exists(REQUEST), "the first one's thread writes")


def test_a_terminal_that_closes_sends_several_signals_and_the_step_is_saved(tmp_path):
    run = Folder(str(tmp_path))
    before = signal.getsignal(signal.SIGHUP)

    with StopRequests(run).taken() as requests:
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGHUP):  # Ctrl-C, then it is closed
            os.kill(os.getpid(), number)
        wait_until(lambda: run.exists(REQUEST), "the first one's thread writes")

    assert requests.number == signal.SIGINT
    assert signal.getsignal(signal.SIGHUP) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_after_the_training_a_signal_stops_at_once_with_its_own_status(number, tmp_path):
    with StopRequests(Folder(str(tmp_path))).taken() as requests:
        requests.trained = True
        with pytest.raises(KeyboardInterrupt) as stopped:
            os.kill(os.getpid(), number)

    assert not requests.asked
    assert stopped.value.args == (128 + number,)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=["in a shell", "nohup"])
def test_a_signal_that_is_ignored_stays_ignored(number, tmp_path):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with StopRequests(Folder(str(tmp_path))).taken() as requests:
            os.kill(os.getpid(), number)
    finally:
        signal.signal(number, before)

    assert not requests.asked


def test_the_request_of_an_earlier_start_means_nothing(tmp_path):
    run = Folder(str(tmp_path))
    looks = Looks()
    run.write_json(REQUEST, {"start": "another"})

    with StopWatch(run, "this one", notice=looks, every_s=0.01) as watch:
        looks.wait_for(3)
        assert not watch.asked
        run.write_json(REQUEST, {"start": "this one"})
        wait_until(lambda: watch.asked, "the worker is asked")


def test_a_notice_is_a_reason_to_stop_too(tmp_path):
    notices = iter(["", "", "the machine goes"])

    with StopWatch(
        Folder(str(tmp_path)), "this one", notice=lambda: next(notices), every_s=0.01
    ) as watch:
        wait_until(lambda: watch.asked, "the notice is seen")

    assert watch.reason == "the machine goes"


def test_workers_are_told_until_they_can_be(tmp_path, monkeypatch, capsys):
    run, tries = Folder(str(tmp_path)), iter([errno.ENOSPC, errno.EIO, 0])
    write = Folder.write_json

    def full_at_first(self, *arguments):
        if number := next(tries):
            raise OSError(number, os.strerror(number))
        return write(self, *arguments)

    monkeypatch.setattr(Folder, "write_json", full_at_first)
    monkeypatch.setattr(graceful_stop, "LOOK_EVERY_S", 0.01)
    with StopRequests(run).taken():
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until(lambda: run.exists(REQUEST), "the workers are told")

    assert capsys.readouterr().out.count("is retried") == 1


def test_a_request_that_cannot_be_read_is_looked_at_again(tmp_path):
    run, looks = Folder(str(tmp_path)), Looks()
    run.write(REQUEST, b"{")

    with StopWatch(run, "this one", notice=looks, every_s=0.01) as watch:
        looks.wait_for(3)
        run.write_json(REQUEST, {"start": "this one"})
        wait_until(lambda: watch.asked, "the worker is asked")
