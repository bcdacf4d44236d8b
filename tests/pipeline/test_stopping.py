"""Being asked to stop: a signal reaches the workers of this start, and of no other."""

import errno
import os
import signal
import time

import pytest

from pipeline import stopping
from pipeline.stopping import REQUEST, StopRequests, StopWatch
from pipeline.storage import Folder


def wait_until(condition, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(condition())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_worker_and_leaves_nothing_behind(number, tmp_path, capsys):
    run = Folder(str(tmp_path))
    requests = StopRequests(run)
    before = signal.getsignal(number)
    run.write_json(REQUEST, {"start": "one that was killed"})

    with requests.taken(), StopWatch(run, requests.token, every_s=0.01) as watch:
        assert not watch.asked
        os.kill(os.getpid(), number)
        assert wait_until(lambda: watch.asked)

    assert (requests.asked, requests.number) == (True, number)
    assert "asked to stop: a checkpoint is saved" in capsys.readouterr().out
    assert signal.getsignal(number) == before
    assert not run.exists(REQUEST)


def test_a_second_signal_stops_at_once(tmp_path):
    with StopRequests(Folder(str(tmp_path))).taken():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)  # the first one's thread writes


def test_after_the_training_a_signal_stops_at_once(tmp_path):
    with StopRequests(Folder(str(tmp_path))).taken() as requests:
        requests.trained = True
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)

    assert not requests.asked


def test_a_signal_that_is_ignored_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequests(Folder(str(tmp_path))).taken() as requests:
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)

    assert not requests.asked


def test_the_request_of_an_earlier_start_means_nothing(tmp_path):
    run = Folder(str(tmp_path))
    run.write_json(REQUEST, {"start": "another"})

    with StopWatch(run, "this one", every_s=0.01) as watch:
        time.sleep(0.1)
        assert not watch.asked
        run.write_json(REQUEST, {"start": "this one"})
        assert wait_until(lambda: watch.asked)


def test_a_notice_is_a_reason_to_stop_too(tmp_path):
    notices = iter(["", "", "the machine goes"])

    with StopWatch(
        Folder(str(tmp_path)), "this one", notice=lambda: next(notices), every_s=0.01
    ) as watch:
        assert wait_until(lambda: watch.asked)

    assert watch.reason == "the machine goes"


def test_workers_are_told_until_they_can_be(tmp_path, monkeypatch, capsys):
    run, tries = Folder(str(tmp_path)), iter([errno.ENOSPC, errno.EIO, 0])
    write = Folder.write_json

    def full_at_first(self, *arguments):
        if number := next(tries):
            raise OSError(number, os.strerror(number))
        return write(self, *arguments)

    monkeypatch.setattr(Folder, "write_json", full_at_first)
    monkeypatch.setattr(stopping, "LOOK_EVERY_S", 0.01)
    with StopRequests(run).taken():
        os.kill(os.getpid(), signal.SIGTERM)
        assert wait_until(lambda: run.exists(REQUEST))

    assert capsys.readouterr().out.count("are told again") == 1


def test_a_request_that_cannot_be_read_is_looked_at_again(tmp_path):
    run = Folder(str(tmp_path))
    run.write(REQUEST, b"{")

    with StopWatch(run, "this one", every_s=0.01) as watch:
        time.sleep(0.05)
        run.write_json(REQUEST, {"start": "this one"})
        assert wait_until(lambda: watch.asked)
