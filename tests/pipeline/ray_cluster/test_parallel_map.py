"""Which items are worked on in this process, and which with a Ray that is started for them."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from pipeline.ray_cluster import parallel_map
from pipeline.ray_cluster.parallel_map import START_S, estimate, on_each

Item = dict[str, float]


class Clock:
    """Time that passes only where somebody works."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def work(self, item: Item) -> Item:
        self.now += item["takes"]
        return item


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(parallel_map, "time", SimpleNamespace(monotonic=clock.monotonic))
    monkeypatch.setattr(parallel_map, "is_connected", lambda: False)
    monkeypatch.setattr(parallel_map, "connect", lambda cpus: None)
    return clock


@pytest.mark.parametrize(
    ("seconds", "workers", "here"),
    [
        pytest.param([25] * 120, 8, 1, id="much work"),
        pytest.param([1] * 15, 8, 15, id="less than a start takes"),
        pytest.param([30] * 3, 8, 1, id="three items"),
        pytest.param([25] * 2, 8, 2, id="one left, which Ray does no faster"),
        pytest.param([25] * 120, 1, 120, id="one CPU"),
        pytest.param([0.15] * 110 + [25] * 10, 8, 111, id="most was done by an earlier start"),
        pytest.param([0.15] * 110 + [25], 8, 111, id="all but one was"),
        pytest.param([1] * 10 + [25] * 10, 8, 11, id="what is slow comes last"),
    ],
)
def test_ray_is_started_where_the_rest_is_done_earlier_with_it(
    clock, capsys, seconds, workers, here
):
    items = [{"number": number, "takes": takes} for number, takes in enumerate(seconds)]
    by_ray: list[Item] = []

    def on_ray(rest: list[Item]) -> Iterator[Item]:
        by_ray.extend(rest)
        return iter(rest)

    results = list(on_each(clock.work, items, workers=workers, on_ray=on_ray))

    assert results == items
    assert by_ray == items[here:]
    assert capsys.readouterr().out.count("starting Ray") == (here < len(items))


@pytest.mark.parametrize(("each", "count", "workers"), [(25, 121, 8), (1, 15, 8), (25, 2, 8)])
def test_the_estimate_is_what_equal_items_take(clock, each, count, workers):
    at_once = [1]

    def on_ray(rest: list[Item]) -> Iterator[Item]:
        at_once[0] = min(workers, len(rest))
        clock.now += START_S + each * -(-len(rest) // workers)
        return iter(rest)

    list(on_each(clock.work, [{"takes": each}] * count, workers=workers, on_ray=on_ray))

    assert estimate(each, count, workers) == (pytest.approx(clock.now), at_once[0])
