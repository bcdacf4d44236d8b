"""Steps left out, the way back, and what is said when a GAN is dying."""

import pytest
import torch

from pipeline.training.diagnostics import (
    SILENT_INTERVALS,
    SLOW_INTERVALS,
    CollapseDetector,
    StragglerDetector,
    distance,
)
from pipeline.training.rollback import BatchOffset, Skips, refuse_to_go_back
from pipeline.training.step_metrics import Interval


def test_skips_are_counted_in_all_and_in_a_row():
    skips = Skips(torch.device("cpu"), total=2)

    rows = []
    for skipped in (1, 0, 1, 1):
        skips.add(torch.tensor(float(skipped)))
        rows.append(skips.in_a_row())

    assert rows == [1, 0, 1, 2]
    assert skips.total() == 5


def test_going_back_continues_with_the_batch_after_the_last_one_seen():
    course = BatchOffset()

    for reached, target in ((150, 100), (120, 100)):
        seen = reached - 1 + course.passed_over  # the batch of the last step
        course = course.back(reached, target)
        assert target + course.passed_over == seen + 1

    assert course == BatchOffset(passed_over=70, rollbacks=2)
    assert BatchOffset.of({"step": 100, **course.record()}) == course
    assert BatchOffset.of({"step": 100}) == BatchOffset()


def test_a_run_without_a_checkpoint_cannot_go_back():
    with pytest.raises(ValueError, match=r"step 20 the last 10 steps.*no checkpoint yet.*-lr"):
        refuse_to_go_back(20, 0, 10, BatchOffset(), allowed=3)


def test_a_run_goes_back_only_so_often():
    refuse_to_go_back(120, 100, 10, BatchOffset(rollbacks=2), allowed=3)

    with pytest.raises(ValueError, match=r"rolled back 3 times already \(health.rollbacks=3\)"):
        refuse_to_go_back(120, 100, 10, BatchOffset(rollbacks=3), allowed=3)


def test_a_value_that_is_not_finite_counts_for_nothing_in_the_mean():
    interval = Interval(0)
    for good, bad in ((1.0, 2.0), (3.0, float("nan")), (5.0, float("inf"))):
        interval.add({"good": torch.tensor(good), "bad": torch.tensor(bad)})

    measured = interval.close(3, 4, torch.device("cpu"))

    assert measured["good"] == 3
    assert measured["bad"] == 2


HEALTHY = {
    "loss/discriminator": 1.0,
    "loss/generator": 0.3,
    "gradient/generator": 0.2,
    "health/discriminator_accuracy": 0.8,
}
WON = {"loss/discriminator": 0.0, "health/discriminator_accuracy": 1.0}


def pictures(spread: float, count: int = 6) -> torch.Tensor:
    torch.manual_seed(0)
    colours = torch.rand(count, 3, 1, 1) * spread
    return (255 * colours.expand(-1, -1, 32, 32)).to(torch.uint8)


@pytest.fixture
def told():
    return []


@pytest.fixture
def watch(told):
    return CollapseDetector(lambda tag, value, text: told.append((tag, value, text)), pictures(1))


@pytest.mark.parametrize(
    "signs", [{"gradient/generator": 1e-6}, {"loss/generator": 0.3}], ids=["gradient", "constant"]
)
def test_a_discriminator_that_has_won_is_told_once(signs, watch, told):
    watch.interval(50, HEALTHY)

    seen = [
        watch.interval(100 + n, HEALTHY | WON | {"loss/generator": 0.3 + n} | signs)
        for n in range(SILENT_INTERVALS + 3)
    ]

    collapsed = [each["health/discriminator_collapse"] for each in seen]
    assert collapsed == [0.0] * (SILENT_INTERVALS - 1) + [1.0] * 4
    ((tag, value, text),) = told
    assert tag == "health.discriminator_collapse"
    assert value == f"step {100 + SILENT_INTERVALS - 1}"
    assert "--optim.discriminator-lr" in text


@pytest.mark.parametrize(
    "signs",
    [WON, {"gradient/generator": 1e-6}, {}],
    ids=["wins while the generator learns", "gradient alone", "well"],
)
def test_a_run_that_is_well_is_not_told_off(signs, watch, told):
    watch.interval(50, HEALTHY)
    for n in range(20):
        watch.interval(100 + n, HEALTHY | {"loss/generator": 0.1 * n} | signs)

    assert not told


def test_a_loss_that_is_not_finite_ends_no_watch(watch, told):
    for n in range(20):
        watch.interval(n, dict.fromkeys(HEALTHY, float("nan")))

    assert not told


def test_images_that_become_alike_are_told_once(watch, told):
    shares = [
        watch.samples(step, pictures(spread))["health/sample_distance"]
        for step, spread in ((0, 0.01), (10, 0.8), (20, 0.02), (30, 0.02))
    ]

    assert shares == pytest.approx([0.01, 0.8, 0.02, 0.02], abs=0.01)
    ((tag, value, text),) = told  # not at step 0: they have not been different yet
    assert (tag, value) == ("health.mode_collapse", "step 20")
    assert "2% as much" in text


def test_one_image_is_not_watched_for_likeness(told):
    watch = CollapseDetector(lambda *words: told.append(words), pictures(1, count=1))

    assert watch.samples(10, pictures(1, count=1)) == {}


def test_distance_is_that_of_two_flat_colours():
    black, grey = torch.zeros(3, 32, 32), torch.full((3, 32, 32), 60.0)

    assert distance(torch.stack([black, grey]).to(torch.uint8)) == pytest.approx(60)


def test_a_slow_worker_is_told_once_with_its_number():
    told = []
    pace = StragglerDetector(lambda *said: told.append(said))

    for step in range(1, 10):
        pace.interval(step, [0.2, 0.21, 0.5, 0.19])

    ((tag, value, text),) = told
    assert (tag, value) == ("health.slow_worker", f"worker 2 at step {SLOW_INTERVALS}")
    assert "wait for worker 2, which takes 0.5 s" in text
    assert "the others take 0.2 s" in text


def test_workers_that_are_slow_now_and_then_or_alone_are_not_told():
    told = []
    pace = StragglerDetector(lambda *said: told.append(said))

    for step in range(1, 20):
        pace.interval(step, [0.2, 0.9 if step % SLOW_INTERVALS else 0.2])
        pace.interval(step, [0.2])

    assert not told
