"""Trackers in rarer trouble than being away: too busy, or with a database that is locked."""

import sqlite3
import time

import pytest

from pipeline.sender import Sender
from tests.chaos.proxy import ChaosProxy
from tests.pipeline.test_sender import arrived, new_run, server, store, told, wait_for

__all__ = ["server", "store"]  # fixtures

LOCKED_S = 20

pytestmark = [pytest.mark.slow, pytest.mark.thorough]


def tell(tracker, first: int, last: int) -> float:
    """Tell points of some steps, and return the longest that one of them took in seconds."""
    slowest = 0.0
    for step in range(first, last):
        started = time.perf_counter()
        tracker.metrics(step, {"loss": 1 / step})
        slowest = max(slowest, time.perf_counter() - started)
        time.sleep(0.02)
    return slowest


def test_a_server_that_is_too_busy_gets_all_of_it_later(server, tmp_path, record_property):
    run = tmp_path / "busy"
    with ChaosProxy("127.0.0.1", server.port) as proxy:
        tracker = new_run(run, proxy.url)
        sender = Sender(tracker.run, proxy.url)
        sender.start()
        tracker.metrics(1, {"loss": 1.0})
        assert wait_for(lambda: sender.delivery.delivered >= 3)

        proxy.inject("429", times=4)
        slowest = tell(tracker, 2, 60)

        assert wait_for(lambda: "429" in (sender.problem or "")), sender.problem
        assert sender.close() == {}
        assert sender.delivery.refused == 0, "it is no refusal"
        assert arrived(proxy.url, run) == told(run)
        assert len(told(run)) == 59
        assert slowest < 0.5
        record_property("measured", f"no point took longer than {1000 * slowest:.1f} ms")


def test_a_database_that_another_has_locked_gets_all_of_it_later(store, tmp_path, record_property):
    run = tmp_path / "locked"
    tracker = new_run(run, store)
    sender = Sender(tracker.run, store)
    sender.start()
    tracker.metrics(1, {"loss": 1.0})
    assert wait_for(lambda: sender.delivery.delivered >= 3)
    before = sender.delivery.delivered
    database = sqlite3.connect(store.removeprefix("sqlite:///"), isolation_level=None)

    database.execute("BEGIN EXCLUSIVE")
    slowest = tell(tracker, 2, 60)
    time.sleep(LOCKED_S)
    delivered = sender.delivery.delivered
    database.execute("ROLLBACK")
    database.close()

    assert delivered == before, "nothing can be written while it is locked"
    assert sender.close() == {}
    assert arrived(store, run) == told(run)
    assert len(told(run)) == 59
    assert slowest < 0.5
    record_property("measured", f"no point took longer than {1000 * slowest:.1f} ms")
