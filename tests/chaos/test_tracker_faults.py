"""Trackers in rarer trouble than being away: too busy, or with a database that is locked."""

import sqlite3
import time

import pytest

from pipeline.tracking.sender import Delivery, Sender
from tests.chaos.proxy import ChaosProxy
from tests.pipeline.tracking.test_sender import arrived, new_run, server, store, told
from tests.waiting import wait_until

__all__ = ["server", "store"]  # fixtures

LOCKED_S = 20  # at least
PATIENCE_S = 120

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


def sent(tracker, uri: str) -> bool:
    """Tell whether all that was told is in MLflow, and noted as such."""
    return not Delivery(tracker.run, uri).left()


def test_a_server_that_is_too_busy_gets_all_of_it_later(server, tmp_path, record_property):
    run = tmp_path / "busy"
    with ChaosProxy("127.0.0.1", server.port) as proxy:
        tracker = new_run(run, proxy.url)
        sender = Sender(tracker.run, proxy.url)
        sender.start()
        tracker.metrics(1, {"loss": 1.0})
        wait_until(lambda: sent(tracker, proxy.url), "the first point in MLflow")

        proxy.inject("429", times=10**6)
        slowest = tell(tracker, 2, 60)
        wait_until(lambda: "429" in (sender.problem or ""), "a refusal of a busy server")
        proxy.clear()

        assert sender.close() == {}
        assert sender.delivery.refused == 0, "it is no refusal"
        assert arrived(proxy.url, run) == told(run)
        assert len(told(run)) == 59
        record_property("measured", f"no point took longer than {1000 * slowest:.1f} ms")


def test_a_database_that_another_has_locked_gets_all_of_it_later(store, tmp_path, record_property):
    run = tmp_path / "locked"
    tracker = new_run(run, store)
    sender = Sender(tracker.run, store)
    sender.start()
    tracker.metrics(1, {"loss": 1.0})
    wait_until(lambda: sent(tracker, store), "the first point in MLflow")
    before = sender.delivery.delivered
    database = sqlite3.connect(
        store.removeprefix("sqlite:///"), timeout=PATIENCE_S, isolation_level=None
    )

    database.execute("BEGIN EXCLUSIVE")
    slowest = tell(tracker, 2, 60)  # nothing of it waits for the lock, or it would never end
    time.sleep(LOCKED_S)
    wait_until(lambda: sender.problem, "a database that is locked")
    delivered = sender.delivery.delivered
    database.execute("ROLLBACK")
    database.close()

    assert delivered == before, "nothing can be written while it is locked"
    assert sender.close() == {}
    assert arrived(store, run) == told(run)
    assert len(told(run)) == 59
    record_property("measured", f"no point took longer than {1000 * slowest:.1f} ms")
