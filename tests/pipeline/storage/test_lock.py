"""Locks of folders: of many who try, one owns, and the dead own nothing."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from pipeline.storage import lock as locks
from pipeline.storage import s3_retries
from pipeline.storage.folder import Folder
from pipeline.storage.lock import FolderInUseError, Lock, LockLostError
from tests.chaos.proxy import ChaosProxy
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
BEAT_S = 0.4
PATIENCE_S = 120


@pytest.fixture
def patient(monkeypatch):
    """Challengers that watch an owner for minutes, so that no pause of it is taken for its end.

    What they wait for is its next heartbeat, which comes as soon as ever.
    """
    monkeypatch.setattr(locks, "BEATS_TO_WATCH", 1000)


class Clock:
    """A clock that moves only while somebody sleeps by it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.meanwhile: Callable[[], None] = lambda: None  # happens while somebody sleeps

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(locks, "time", found)
    return found


@pytest.fixture
def lake(s3_server, bucket, monkeypatch):
    """A folder in a bucket, and the proxy on the way there."""
    monkeypatch.setattr(s3_retries, "PAUSE_S", 0.01)
    with ChaosProxy(*s3_server.address) as proxy:
        settings = s3_server.options | {"endpoint_url": proxy.url}
        monkeypatch.setitem(fsspec.config.conf, "s3", settings)
        yield Folder("s3://lake/runs/small"), proxy


@pytest.fixture(params=["local", "bucket"])
def folder(request, tmp_path):
    if request.param == "local":
        return Folder(str(tmp_path / "run"))
    return request.getfixturevalue("lake")[0]


def lock_files(folder):
    return [name for name in folder.names() if name.startswith(".lock")]


def foreign(**changes):
    """What an owner on another machine writes."""
    return json.dumps(
        {
            "owner": "x",
            "host": "far",
            "boot": "b",
            "pid": 1,
            "started": "1",
            "what": "train",
            "since": "2025-03-04T14:02:00+00:00",
            "heartbeat_s": 0.1,
            "beat": 3,
            "released": False,
            **changes,
        }
    ).encode()


def test_a_lock_is_released_and_taken_again_by_the_next_number(folder):
    with Lock(folder, "prepare") as lock:
        lock.check()
        assert lock_files(folder) == [".lock-00000001"]
    with Lock(folder, "prepare"):
        assert lock_files(folder) == [".lock-00000002"]

    assert folder.read_json(".lock-00000002")["released"]
    assert folder.names() == [".lock-00000002"]


def test_of_many_threads_one_owns(folder, patient):
    start, end = threading.Barrier(8, timeout=PATIENCE_S), threading.Event()
    refused = []

    def attempt(_):
        start.wait()
        try:
            with Lock(folder, "prepare", heartbeat_s=BEAT_S) as lock:
                assert end.wait(PATIENCE_S)
                lock.check()
                return True
        except FolderInUseError as error:
            refused.append(str(error))
            if len(refused) == 7:
                end.set()
            return False

    with ThreadPoolExecutor(8) as pool:
        owned = list(pool.map(attempt, range(8)))

    assert owned.count(True) == 1
    assert all(
        f"{folder} is in use already, by prepare (PID {os.getpid()} on host " in text
        for text in refused
    )
    assert "Wait for it, stop it, or name another folder." in refused[0]


def test_of_many_processes_one_owns_at_a_time(tmp_path, patient):
    folder = Folder(str(tmp_path / "run"))
    context = multiprocessing.get_context("fork")
    start, refusals = context.Barrier(6, timeout=PATIENCE_S), context.Semaphore(0)

    def attempt():
        start.wait()
        try:
            with Lock(Folder(folder.location), "prepare", heartbeat_s=BEAT_S) as lock:
                for _ in range(5):
                    assert refusals.acquire(timeout=PATIENCE_S)
                lock.check()
        except FolderInUseError:
            refusals.release()
            sys.exit(3)

    children = [context.Process(target=attempt) for _ in range(6)]
    for child in children:
        child.start()
    for child in children:
        child.join(2 * PATIENCE_S)

    assert sorted(str(child.exitcode) for child in children) == ["0", "3", "3", "3", "3", "3"]


def test_owners_that_follow_each_other_never_meet(folder, patient):
    inside, met, done = [], [], []
    rounds = 6

    def work(name):
        owned = 0
        while owned < rounds and len(done) < 200:
            try:
                with Lock(folder, "prepare", heartbeat_s=2.0):
                    inside.append(name)
                    met.append(len(inside))
                    time.sleep(0.001)  # whoever thinks it owns the folder too comes now
                    inside.remove(name)
                    owned += 1
            except FolderInUseError:
                done.append(name)
        return owned

    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(work, range(4)))

    assert counts == [rounds] * 4
    assert set(met) == {1}
    assert len(lock_files(folder)) == 1


def test_a_challenger_that_slept_through_owners_backs_off(folder, patient, monkeypatch):
    folder.write(".lock-00000005", foreign(released=True))
    numbers = Lock._numbers
    with Lock(folder, "prepare", heartbeat_s=BEAT_S):  # takes 6
        pass
    with Lock(folder, "prepare", heartbeat_s=BEAT_S):  # takes 7, deletes 6
        slept = [[5]]
        late = Lock(folder, "train", heartbeat_s=BEAT_S)
        monkeypatch.setattr(
            Lock, "_numbers", lambda self: slept.pop() if self is late and slept else numbers(self)
        )
        with pytest.raises(FolderInUseError, match="by prepare"):
            late.__enter__()

        assert not slept
        assert lock_files(folder) == [".lock-00000007"]


OWNER = """
import sys, time
from pipeline.storage.lock import Lock
from pipeline.storage.folder import Folder
with Lock(Folder(sys.argv[1]), "train", heartbeat_s=0.3) as lock:
    print("owned", flush=True)
    while True:
        time.sleep(0.05)
        if lock.lost:
            print("lost:", lock.lost, flush=True)
            lock.check()
"""


@pytest.fixture
def owner(tmp_path):
    """Another process that owns the folder."""
    child = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path), "--token=hunter2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert child.stdout.readline() == "owned\n"
    yield child
    child.kill()
    child.wait()


def test_the_lock_of_a_killed_process_is_taken_over_at_once(owner, tmp_path, patient, capsys):
    folder = Folder(str(tmp_path))
    with pytest.raises(FolderInUseError, match=f"by train .PID {owner.pid} on host"):
        Lock(folder, "train", heartbeat_s=0.3).__enter__()
    owner.kill()
    os.waitid(os.P_PID, owner.pid, os.WEXITED | os.WNOWAIT)  # is left a zombie, which is dead too
    capsys.readouterr()

    with Lock(folder, "train", heartbeat_s=10) as lock:
        lock.check()

    said = capsys.readouterr().out
    assert f"from train (PID {owner.pid} on host " in said
    assert "that process is gone" in said
    assert "watching" not in said
    assert b"hunter2" not in b"".join(folder.read(name) for name in folder.names())


def test_a_stopped_owner_is_replaced_and_learns_of_it(owner, tmp_path, capsys):
    os.kill(owner.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, owner.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)  # not in a heartbeat

    with Lock(Folder(str(tmp_path)), "train", heartbeat_s=0.3) as lock:
        os.kill(owner.pid, signal.SIGCONT)
        said = owner.stdout.readline()
        owner.wait(PATIENCE_S)
        lock.check()
        assert lock_files(lock.folder) == [".lock-00000002"]

    assert f"lost: it was taken over by train (PID {os.getpid()}" in said
    assert "LockLostError" in owner.stderr.read()
    assert "no sign of life in 1 s" in capsys.readouterr().out


def test_ctrl_c_releases(owner, tmp_path):
    owner.send_signal(signal.SIGINT)
    owner.wait(PATIENCE_S)

    assert Folder(str(tmp_path)).read_json(".lock-00000001")["released"]


def test_a_silent_owner_elsewhere_is_watched_for_three_of_its_heartbeats(folder, clock, capsys):
    folder.write(".lock-00000041", foreign(heartbeat_s=0.5))

    with Lock(folder, "train", heartbeat_s=0.3):
        assert clock.now == pytest.approx(1.5, abs=0.05)
        assert lock_files(folder) == [".lock-00000042"]

    said = capsys.readouterr().out
    assert "from train (PID 1 on host far, since 2025-03-04 14:02 UTC): no sign of life" in said


@pytest.mark.parametrize(
    ("named", "patience_s"),
    [
        *((bad, 0.9) for bad in (float("nan"), float("inf"), float("-inf"), -5, 0, True)),
        *((bad, 0.9) for bad in ("5", None, [5], {}, "\x1b[2J")),
        *((bad, 6.0) for bad in (3, 1e9, 10**400)),
    ],
    ids=lambda value: str(value)[:8],
)
def test_no_lock_makes_others_wait_for_longer_than_a_heartbeat_can_be(
    named, patience_s, folder, clock, monkeypatch
):
    monkeypatch.setattr(locks, "MAX_HEARTBEAT_S", 2.0)  # of a minute, which is long to look on
    folder.write(".lock-00000041", foreign(heartbeat_s=named))

    with Lock(folder, "train", heartbeat_s=0.3):
        assert clock.now == pytest.approx(patience_s, abs=0.2)


@pytest.mark.parametrize(
    "strange",
    [
        {
            "what": "\x1b]0;t\x07train\nerror: all is lost",
            "host": "\x1b[2J\u202efar",
            "pid": "\x9b1m",
        },
        {"since": "0001-01-01T00:00:00+14:00"},
        {"since": ["\x1b[2J"], "what": {"\x1b[2J": 1}},
        *({**locks.this_process(), "pid": pid} for pid in ("x", 1e400, -1, 2**80, True, None)),
    ],
    ids=["control characters", "date", "kinds"]
    + [f"pid {kind}" for kind in ("text", "infinite", "negative", "huge", "bool", "missing")],
)
def test_what_a_strange_lock_says_is_shown_and_not_obeyed(strange, folder, clock, capsys):
    folder.write(".lock-00000041", foreign(**strange))

    with Lock(folder, "train", heartbeat_s=0.3):
        pass

    first, second = capsys.readouterr().out.splitlines()
    assert "watching whether that is alive" in first
    assert "no sign of life in 1 s" in second
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(first + second)


def test_a_living_owner_elsewhere_is_left_alone(folder, clock):
    folder.write(".lock-00000041", foreign(heartbeat_s=5))

    def beat() -> None:
        if clock.now > 14:  # just before it would be taken for dead
            folder.write(".lock-00000041", foreign(heartbeat_s=5, beat=4))

    clock.meanwhile = beat

    with pytest.raises(FolderInUseError, match=r"train \(PID 1 on host far, since 2025-03-04 14:0"):
        Lock(folder, "train", heartbeat_s=3).__enter__()

    assert lock_files(folder) == [".lock-00000041"]


@pytest.mark.parametrize("content", [b"{", b"[" * 100_000, b"\xff", b"3"], ids=lambda c: str(c[:4]))
def test_a_lock_that_cannot_be_read_is_watched_too(content, folder):
    folder.write(".lock-00000001", content)

    with Lock(folder, "train", heartbeat_s=0.1):
        assert lock_files(folder) == [".lock-00000002"]


def test_a_process_with_the_same_pid_on_another_boot_is_not_taken_for_the_owner():
    here = locks.this_process()

    assert not locks.process_is_gone(here)
    assert locks.process_is_gone(here | {"started": "1"})  # the PID was given again
    assert not locks.process_is_gone(here | {"boot": "other", "pid": 2**22 + 1})
    assert not locks.process_is_gone(here | {"host": "other", "pid": 2**22 + 1})


def test_a_deleted_lock_is_noticed(folder):
    told = []

    with Lock(folder, "prepare", heartbeat_s=0.1, on_lost=told.append) as lock:
        with lock._writing:  # or a heartbeat that has looked already puts it there again
            folder.delete(".lock-00000001")
        wait_until(lambda: told, "a heartbeat that finds no lock")

        assert told == ["its lock was deleted"]
        with pytest.raises(LockLostError, match=r"does not belong to this prepare any more"):
            lock.check()

    assert lock_files(folder) == []


def test_check_looks_for_itself_when_the_heartbeat_is_late(folder, clock, monkeypatch):
    monkeypatch.setattr(Lock, "_beat", lambda self: None)

    with Lock(folder, "prepare", heartbeat_s=0.1) as lock:
        lock.check()
        folder.write(".lock-00000002", foreign())
        lock.check()
        clock.sleep(0.25)
        with pytest.raises(LockLostError, match="taken over by train"):
            lock.check()

    assert lock_files(folder) == [".lock-00000002"]


def test_a_child_of_a_fork_does_not_release(tmp_path):
    folder = Folder(str(tmp_path))

    with Lock(folder, "prepare") as lock:
        child = os.fork()
        if child == 0:
            lock.__exit__(None, None, None)
            os._exit(0)
        os.waitpid(child, 0)
        assert not folder.read_json(".lock-00000001")["released"]
        lock.check()

    assert folder.read_json(".lock-00000001")["released"]


def test_a_heartbeat_survives_storage_that_is_away_for_a_while(lake, caplog):
    folder, proxy = lake

    with Lock(folder, "prepare", heartbeat_s=0.1) as lock:
        proxy.inject("403", 5)  # not even tried again
        beat = lock._content["beat"]
        wait_until(lambda: lock._content["beat"] >= beat + 3, "heartbeats")
        lock.check()

    assert "no heartbeat" in caplog.text
    assert folder.read_json(".lock-00000001")["released"]


def test_a_creation_whose_answer_was_lost_is_a_creation(lake):
    folder, proxy = lake
    proxy.inject("lost_answer", when=lambda request: request.method == "PUT")

    with Lock(folder, "prepare") as lock:
        lock.check()
        assert lock_files(folder) == [".lock-00000001"]


def test_a_lock_needs_a_heartbeat(tmp_path):
    for wrong in (0, -1, 61, float("nan")):
        with pytest.raises(ValueError, match=f"heartbeat_s={wrong} must be above 0 seconds"):
            Lock(Folder(str(tmp_path)), "prepare", heartbeat_s=wrong)
