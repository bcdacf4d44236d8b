"""Steps left out, the way back, and what is said when a GAN is dying."""

import json

import pytest
import torch

from pipeline.training.diagnostics import (
    DEAD_STEPS,
    FAR_STEPS,
    LEARNING_FROM,
    SILENT_INTERVALS,
    SLOW_INTERVALS,
    LearningWatch,
    Seen,
    StragglerDetector,
    distance,
    is_at_chance,
)
from pipeline.training.rollback import BatchOffset, Skips, refuse_to_go_back
from pipeline.training.step_metrics import Interval
from ratgan.step import Gan, train_step
from tests.ratgan.networks import small_discriminator, small_generator


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


@pytest.mark.parametrize(("precision", "advised"), [("float32", False), ("bfloat16", True)])
def test_a_run_without_a_checkpoint_cannot_go_back(precision, advised):
    limits = {"allowed": 3, "precision": precision}
    with pytest.raises(ValueError, match=r"step 20 the last 10 steps.*no checkpoint yet") as error:
        refuse_to_go_back(20, None, 10, BatchOffset(), **limits)
    refuse_to_go_back(20, 0, 10, BatchOffset(), **limits)  # to the weights it started from
    assert "--optim.discriminator-lr" in str(error.value)
    assert ("--precision float32" in str(error.value)) == advised


def test_a_run_goes_back_only_so_often():
    limits = {"allowed": 3, "precision": "bfloat16"}
    refuse_to_go_back(120, 100, 10, BatchOffset(rollbacks=2), **limits)

    with pytest.raises(ValueError, match=r"rolled back 3 times already \(health.rollbacks=3\)"):
        refuse_to_go_back(120, 100, 10, BatchOffset(rollbacks=3), **limits)


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
    "health/saturated_output": 0.6,
}
WON = {"loss/discriminator": 0.0, "health/discriminator_accuracy": 1.0}


def pictures(spread: float, count: int = 6) -> torch.Tensor:
    torch.manual_seed(0)
    colours = torch.rand(count, 3, 1, 1) * spread
    return (255 * colours.expand(-1, -1, 32, 32)).to(torch.uint8)


@pytest.fixture
def told():
    return []


def new_watch(told: list, record: dict | None = None, *, tanh: bool = True) -> LearningWatch:
    watch = LearningWatch(record or {}, parameters=10_000, tanh=tanh)
    watch.tell = lambda tag, value, text: told.append((tag, value, text))
    return watch


@pytest.fixture
def watch(told):
    return new_watch(told)


@pytest.mark.parametrize(
    "signs", [{"gradient/generator": 1e-6}, {"loss/generator": 0.3}], ids=["gradient", "constant"]
)
def test_a_discriminator_that_has_won_is_told_once(signs, watch, told):
    watch.interval(50, 50, HEALTHY)

    seen = [
        watch.interval(100 + n, 1, HEALTHY | WON | {"loss/generator": 0.3 + n} | signs)
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
    watch.interval(50, 50, HEALTHY)
    for n in range(20):
        watch.interval(100 + 50 * n, 50, HEALTHY | {"loss/generator": 0.1 * n} | signs)

    assert not told


def test_a_loss_that_is_not_finite_ends_no_watch(watch, told):
    for n in range(20):
        watch.interval(n, 50, dict.fromkeys(HEALTHY, float("nan")))

    assert not told


def test_images_that_become_alike_are_told_once(watch, told):
    shares = [
        watch.samples(step, pictures(spread), pictures(1))["health/sample_distance"]
        for step, spread in ((0, 0.01), (10, 0.8), (20, 0.02), (30, 0.02))
    ]

    assert shares == pytest.approx([0.01, 0.8, 0.02, 0.02], abs=0.01)
    ((tag, value, text),) = told  # not at step 0: they have not been different yet
    assert (tag, value) == ("health.mode_collapse", "step 20")
    assert "2% as much" in text


def test_one_image_is_not_watched_for_likeness(told):
    one = pictures(1, count=1)

    assert new_watch(told).samples(10, one, one) == {}


def test_a_discriminator_that_is_far_ahead_from_the_start_is_told_once(watch, told):
    ahead = HEALTHY | {"health/discriminator_accuracy": 0.999}

    for n in range(1, 30):
        loss = 1.0 if n == 3 else 2.5 + 0.1 * n  # and it comes back once
        watch.interval(100 * n, 100, ahead | {"loss/generator": loss})

    ((tag, value, text),) = told
    assert (tag, value) == ("health.discriminator_ahead", f"step {300 + FAR_STEPS}")
    assert "99.9% of images" in text
    assert "logits of drawn ones are -3.3 on average" in text
    assert "--optim.discriminator-lr" in text


DEAD = {
    "no gradient": {"gradient/generator": 0.0},
    "one that Adam takes for none": {"gradient/generator": 1e-8},
    "output at the end of its range": {
        "gradient/generator": 1e-5,
        "health/saturated_output": 1.0,
    },
}


@pytest.mark.parametrize("every", [10, 50, 1000])
@pytest.mark.parametrize("signs", DEAD)
def test_a_dead_generator_is_told_once_with_what_helps(signs, every, watch, told):
    watch.interval(every, every, HEALTHY)
    steps = range(2 * every, 2 * every + 2 * DEAD_STEPS + every, every)

    dead = [watch.interval(n, every, HEALTHY | DEAD[signs]) and watch.dead for n in steps]

    ((tag, value, text),) = told
    assert tag == "health.dead_generator"
    assert value == f"step {every + max(DEAD_STEPS, every)}"
    assert "--model.output linear or a lower --optim.generator-lr" in text
    assert dead[-1]
    assert dead.index(True) == len(dead) - sum(dead)


@pytest.mark.parametrize(
    ("signs", "tanh"),
    [
        ({"health/saturated_output": 1.0}, True),  # black and white, and still learning
        ({"gradient/generator": 1e-5}, True),
        (DEAD["output at the end of its range"], False),  # a linear one has a gradient there too
    ],
    ids=["learns", "faint", "linear"],
)
def test_a_generator_that_gets_a_gradient_is_not_dead(signs, tanh, told):
    watch = new_watch(told, tanh=tanh)
    watch.interval(50, 50, HEALTHY)

    for n in range(20):
        watch.interval(100 + 50 * n, 50, HEALTHY | {"loss/generator": 0.1 * n} | signs)

    assert not watch.dead
    assert not told


def test_a_generator_that_comes_back_is_not_dead(watch, told):
    for n in range(20):
        watch.interval(150 * n, 150, HEALTHY | (DEAD["no gradient"] if n % 2 else {}))

    assert not told


def test_a_linear_generator_is_not_advised_to_be_linear(told):
    watch = new_watch(told, tanh=False)

    watch.interval(DEAD_STEPS, DEAD_STEPS, HEALTHY | DEAD["no gradient"])

    assert watch.dead
    assert "linear" not in told[0][2]


def a_step(change) -> dict[str, float]:
    """Do a step of small networks, and return its values.

    Args:
        change: Of generator and discriminator before it.
    """
    torch.manual_seed(0)
    generator, discriminator = small_generator(), small_discriminator()
    change(generator, discriminator)
    first, second = torch.randn(2, 4, 9)
    values = train_step(
        Gan.create(generator, discriminator),
        images=torch.rand(4, 3, 32, 32) * 2 - 1,
        sentences=first,
        mismatched=second,
        noise=torch.randn(4, generator.noise_dim),
    )
    return {name: float(value) for name, value in values.items()}


def white(generator, discriminator) -> None:
    generator.to_rgb.bias.data.fill_(200.0)


def residuals(value: float):
    def change(generator, discriminator) -> None:
        for network in (generator, discriminator):
            for name, parameter in network.named_parameters():
                if name.endswith("residual_scale"):
                    parameter.data.fill_(value)

    return change


@pytest.mark.parametrize(
    ("change", "dead"),
    [(white, True), (residuals(0.0), False), (residuals(1.0), False)],
    ids=["saturated", "residual scales at 0", "at 1"],
)
def test_where_a_gradient_is_exactly_0_the_generator_is_dead_and_nowhere_else(change, dead, told):
    watch, measured = new_watch(told), a_step(change)

    watch.interval(DEAD_STEPS, DEAD_STEPS, measured)

    assert (measured["gradient/generator"] == 0) == dead
    assert watch.dead == dead
    assert measured["health/saturated_output"] == (change is white)


def test_a_watch_goes_on_from_its_record():
    def intervals(told: list, parts: int) -> tuple[list, dict]:
        seen = Seen()
        for part in range(parts):
            watch = new_watch(told, json.loads(json.dumps(seen.record())))
            for n in range(part * 12 // parts, (part + 1) * 12 // parts):
                signs = WON | DEAD["no gradient"] if n > 3 else {}
                watch.interval(50 * n, 50, HEALTHY | signs)
                watch.samples(50 * n, pictures(0.8 if n < 5 else 0.02), pictures(1))
                watch.held_out(500 * n, *logits(1.0, -0.5, -1.0))
            seen = watch.seen
        return told, seen.record()

    whole = intervals([], 1)

    assert len(whole[0]) == 4
    assert intervals([], 12) == intervals([], 5) == whole
    assert Seen.of({}) == Seen()
    assert Seen.of({"silent": 3, "newer": 1}) == Seen(silent=3)


def test_images_that_never_came_apart_are_told_once_and_not_early(watch, told):
    for step in range(0, 3 * LEARNING_FROM, LEARNING_FROM // 2):
        watch.samples(step, pictures(0.01), pictures(1))

    ((tag, value, text),) = told
    assert (tag, value) == ("health.samples_alike", f"step {LEARNING_FROM}")
    assert "1% as much as real ones" in text
    assert "--model.output linear" in text


def crossed(by_text: float, by_noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Make images of 6 captions and noises, and those of noise n with caption n + 1."""
    torch.manual_seed(0)
    captions, noises = (torch.rand(6, 3, 1, 1) for _ in range(2))

    def image(captions: torch.Tensor) -> torch.Tensor:
        flat = 100 * (by_text * captions + by_noise * noises)
        return flat.expand(-1, -1, 32, 32).to(torch.uint8)

    return image(captions), image(captions.roll(-1, 0))


def test_the_effect_of_text_is_its_share_in_what_makes_images_differ(watch, told):
    different = torch.ones(6, dtype=torch.bool)

    shares = [
        watch.text(9000, *crossed(*sizes), different)["health/text_effect"]
        for sizes in ((1, 0), (1, 1), (0.1, 1))
    ]

    assert shares == pytest.approx([1, 0.5, 0.1], abs=0.1)
    assert not told
    assert watch.text(9000, *crossed(0, 0), different) == {}
    assert watch.text(9000, *crossed(0, 1), ~different) == {}


def test_text_that_changes_nothing_is_told_once_and_not_early(watch, told):
    different = torch.arange(6) > 0

    for step in range(0, 3 * LEARNING_FROM, LEARNING_FROM // 2):
        watch.text(step, *crossed(0, 1), different)

    ((tag, value, text),) = told
    assert (tag, value) == ("health.text_without_effect", f"step {LEARNING_FROM}")
    assert "--transform whiten" in text


def test_agreement_at_chance_is_told_once_and_not_early(watch, told):
    for n, agreement in enumerate((0.28, 0.3, 0.9, 0.29, 0.3, 0.3)):
        measured = HEALTHY | {"loss/generator": 0.1 * n, "eval/agreement": agreement}
        watch.interval(500 * n, 500, measured, chance=0.28)

    ((tag, value, text),) = told
    assert (tag, value) == ("health.agreement_at_chance", "step 2000")
    assert "agree with their captions in 30%, and blind ones would in 28%" in text


def test_chance_is_left_at_twice_of_it_or_a_tenth_of_what_is_above_it():
    assert [is_at_chance(share, 0.01) for share in (0.0, 0.019, 0.021)] == [True, True, False]
    assert [is_at_chance(share, 0.5) for share in (0.5, 0.54, 0.56)] == [True, True, False]


def logits(*means: float) -> list[torch.Tensor]:
    spread = torch.linspace(-1, 1, 64).double()
    return [mean + spread for mean in means]


def test_a_discriminator_that_knows_its_images_by_heart_is_told_once_and_not_early(watch, told):
    for step in range(0, 4 * LEARNING_FROM, LEARNING_FROM // 2):
        # At step 1,500 it does not.
        held_out = 0.5 if step == 1.5 * LEARNING_FROM else -0.5
        seen = watch.held_out(step, *logits(1.0, held_out, -1.0))

    ((tag, value, text),) = told
    assert (tag, value) == ("health.discriminator_overfits", f"step {int(2.5 * LEARNING_FROM)}")
    assert "+1.00 for training images, -0.50 for held-out ones, and -1.00 for drawn ones" in text
    assert "Try --augment" in text
    assert seen == pytest.approx(
        {"logit/training": 1.0, "logit/held_out": -0.5, "health/overfit": 0.75}
    )


@pytest.mark.parametrize(
    ("means", "share"),
    [
        ((1.0, 0.8, -1.0), 0.0),
        ((1.0, 0.4, -1.0), 0.3),
        ((0.4, 0.0, -0.1), 0.8),
        ((0.1, -0.4, 0.0), None),
    ],
    ids=["apart by chance", "a little", "hardly sure of any", "drawn images pass for real"],
)
def test_held_out_images_that_are_judged_as_training_images_are_not_told(means, share, told):
    watch = new_watch(told)

    for step in range(0, 5 * LEARNING_FROM, LEARNING_FROM):
        seen = watch.held_out(step, *logits(*means))

    assert not told
    assert seen.get("health/overfit") == (None if share is None else pytest.approx(share))


def test_one_held_out_image_says_nothing(watch, told):
    for step in range(0, 5 * LEARNING_FROM, LEARNING_FROM):
        training, held_out, drawn = logits(1.0, -0.5, -1.0)
        watch.held_out(step, training, held_out[:1], drawn[:1])

    assert not told


def test_who_augments_already_is_advised_to_do_more(told):
    watch = LearningWatch({}, parameters=10_000, tanh=True, augmented=True)
    watch.tell = lambda *said: told.append(said)

    for step in (LEARNING_FROM, LEARNING_FROM + 1):
        watch.held_out(step, *logits(1.0, -0.5, -1.0))

    assert "Try more kinds of --augment" in told[0][2]


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
