"""Detect a run that does not learn, or learns no more, and stragglers."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from torch import Tensor
from torch.nn import functional

# Root mean square over parameters. Adam adds 1e-8 to it before it divides: so small a one moves
# nothing. (Any larger one does, however small: the rest of Adam does not depend on its size.)
DEAD_GRADIENT = 1e-9
SATURATED = 0.9999  # share of the generator's output values
DEAD_STEPS = 200  # in a row, after which a generator does not come back
WON_LOSS = 0.05  # of the discriminator; it is 2 if it distinguishes nothing
WON_ACCURACY = 0.99
LOST_GRADIENT = 1e-3  # share of the generator's largest gradient
CONSTANT_LOSS = 1e-3  # change of the generator's loss from one interval to the next, relative
SILENT_INTERVALS = 5
# Of the generator: drawn images have logits below −2 on average, twice what the hinge asks for.
FAR_LOSS = 2.0
FAR_STEPS = 500  # in a row
ALIKE = 0.25  # distance of generated images, as a share of that of real ones
# What has not begun by this step is told: the quickstart has it all in half of the time.
LEARNING_FROM = 1000
NEVER_APART = 0.1  # as ALIKE, of images that have not differed yet
NO_TEXT = 0.02  # share of the caption in what makes images differ; the rest is the noise's
AT_CHANCE = 0.1  # of the way from chance to all right; or twice chance, where that is less
CHANCE_MEASURES = 2  # in a row
# In D's logits: held-out images so far from training ones, half of what the hinge asks for, and so
# far on the way to drawn ones.
PARTED, OVERFIT = 0.5, 0.5
OVERFIT_MEASURES = 2  # in a row
SURE = 3.0  # standard errors
THUMBNAIL = 16  # pixels: shows differences of images, without their noise
SLOW = 1.5  # times the step time of the other workers
SLOW_INTERVALS = 3  # in a row

Tell = Callable[[str, str, str], None]  # takes the name of a tag, its value and the message


@dataclass
class Seen:
    """What has been seen of a run so far; stored in its checkpoints."""

    largest_gradient: float = 0.0
    last_loss: float | None = None
    dead_steps: int = 0
    silent: int = 0
    ahead_steps: int = 0
    differed: bool = False
    at_chance: int = 0
    overfits: int = 0
    told: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Seen":
        """Read a record; those of older checkpoints have less in them, or nothing."""
        return cls(**{each.name: record[each.name] for each in fields(cls) if each.name in record})

    def record(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return asdict(self)


class LearningWatch:
    """Logs once, and tags the run, each thing that shows that a GAN does not learn.

    Args:
        record: Of `Seen`, from the checkpoint that the run goes on from.
        parameters: Of the generator, their number.
        tanh: Whether its output is bounded, and can saturate.
        augmented: Whether the discriminator sees changed images.

    Attributes:
        tell: Logs a message and tags the run; does nothing but on worker 0.
        seen: What has been seen so far.
    """

    def __init__(
        self, record: Mapping[str, Any], *, parameters: int, tanh: bool, augmented: bool = False
    ) -> None:
        self.tell: Tell = lambda tag, value, text: None
        self.seen = Seen.of(record)
        self.dead_gradient = DEAD_GRADIENT * parameters**0.5
        self.tanh, self.augmented = tanh, augmented
        self.saturated = 0.0  # share of its output in the last interval

    @property
    def dead(self) -> bool:
        """Whether the generator gets no gradient any more; the same on every worker."""
        return self.seen.dead_steps >= DEAD_STEPS

    def interval(
        self, step: int, steps: int, measured: Mapping[str, float], chance: float | None = None
    ) -> dict[str, float]:
        """Check the means of an interval, and return metrics to log with them.

        Args:
            step: Step at its end.
            steps: Steps in it.
            measured: Metrics by name, with those of `train_step`.
            chance: Agreement that blind images reach; None if it was not measured.
        """
        seen = self.seen
        loss, gradient = measured["loss/generator"], measured["gradient/generator"]
        self.saturated = measured.get("health/saturated_output", 0.0) if self.tanh else 0.0
        faint = gradient < LOST_GRADIENT * seen.largest_gradient
        lifeless = gradient <= self.dead_gradient or (self.saturated >= SATURATED and faint)
        seen.dead_steps = seen.dead_steps + steps if lifeless else 0
        won = (
            measured["loss/discriminator"] < WON_LOSS
            or measured["health/discriminator_accuracy"] > WON_ACCURACY
        )
        constant = seen.last_loss is not None and (
            abs(loss - seen.last_loss) < CONSTANT_LOSS * max(1.0, abs(loss))
        )
        lost = constant or faint
        seen.largest_gradient = max(seen.largest_gradient, gradient)
        seen.last_loss = loss if math.isfinite(loss) else None
        seen.silent = seen.silent + 1 if won and lost else 0
        collapsed = seen.silent >= SILENT_INTERVALS
        if self.dead:
            self._tell_once("health.dead_generator", step, self.death())
        if collapsed:
            self._tell_once(
                "health.discriminator_collapse",
                step,
                f"the discriminator has won for {seen.silent} intervals, and the generator learns "
                "nothing from it any more. Try a lower --optim.discriminator-lr or a larger "
                "--optim.penalty-weight, in a new run.",
            )
        ahead = measured["health/discriminator_accuracy"] > WON_ACCURACY and loss > FAR_LOSS
        seen.ahead_steps = seen.ahead_steps + steps if ahead else 0
        if seen.ahead_steps >= FAR_STEPS:
            self._tell_once(
                "health.discriminator_ahead",
                step,
                f"the discriminator has been far ahead for {seen.ahead_steps:,} steps: it knows "
                f"{measured['health/discriminator_accuracy']:.1%} of images for real or drawn, and "
                f"its logits of drawn ones are {-loss:.1f} on average. Try a lower "
                "--optim.discriminator-lr or a larger --optim.penalty-weight, in a new run.",
            )
        if chance is not None:
            self._agreement(step, measured["eval/agreement"], chance)
        return {"health/discriminator_collapse": float(collapsed)}

    def death(self) -> str:
        """Say that the generator is dead, and what helps."""
        causes = ["a lower --optim.generator-lr and --optim.discriminator-lr"]
        if self.tanh:  # large areas of white or black pull it to the end of its range
            causes.insert(0, "--model.output linear")
        return (
            f"the generator has died: for {self.seen.dead_steps:,} steps its gradient was 0, or "
            f"nearly so, and {self.saturated:.0%} of its output values were at the end of their "
            f"range. It does not learn any more. Start a new run, with another --name, and with "
            f"{' or '.join(causes)}."
        )

    def _agreement(self, step: int, agreement: float, chance: float) -> None:
        blind = is_at_chance(agreement, chance)
        self.seen.at_chance = self.seen.at_chance + 1 if blind else 0
        if step >= LEARNING_FROM and self.seen.at_chance >= CHANCE_MEASURES:
            self._tell_once(
                "health.agreement_at_chance",
                step,
                f"images agree with their captions in {agreement:.0%}, and blind ones would in "
                f"{chance:.0%}. Try lower --optim.generator-lr and --optim.discriminator-lr, in a "
                "new run.",
            )

    def samples(self, step: int, images: Tensor, real: Tensor) -> dict[str, float]:
        """Check images of the sample grid, and return metrics to log.

        Args:
            step: When they were drawn.
            images: uint8, [N, 3, H, W].
            real: Real images of their captions, uint8, [N, 3, H, W].
        """
        real_distance = distance(real)
        if not real_distance:  # one image, or several equal ones
            return {}
        share = distance(images) / real_distance
        if self.seen.differed and share < ALIKE:
            self._tell_once(
                "health.mode_collapse",
                step,
                f"the images of the sample grid have become alike: they differ {share:.0%} as much "
                "as real ones. Try a lower --optim.generator-lr or a larger --optim.batch-size, in "
                "a new run.",
            )
        self.seen.differed = self.seen.differed or share >= ALIKE
        if not self.seen.differed and step >= LEARNING_FROM and share < NEVER_APART:
            self._tell_once(
                "health.samples_alike",
                step,
                f"the images of the sample grid have been alike from the start: they differ "
                f"{share:.0%} as much as real ones. Try another --optim.generator-lr"
                + (", or --model.output linear for images on white or black" if self.tanh else "")
                + ", in a new run.",
            )
        return {"health/sample_distance": share}

    def text(
        self, step: int, images: Tensor, crossed: Tensor, different: Tensor
    ) -> dict[str, float]:
        """Check whether captions change the images, and return metrics to log.

        Args:
            step: When they were drawn.
            images: Image n has noise n and caption n, uint8, [N, 3, H, W].
            crossed: Image n has noise n and caption n + 1, the last one the first caption.
            different: Whether captions n and n + 1 differ, [N].
        """
        if not bool(different.any()):
            return {}
        by_text, by_noise = (
            float(_apart(crossed[different], others[different]))
            for others in (images, images.roll(-1, 0))
        )
        if by_text + by_noise == 0:  # all alike, which is told by the samples
            return {}
        share = by_text / (by_text + by_noise)
        if step >= LEARNING_FROM and share < NO_TEXT:
            self._tell_once(
                "health.text_without_effect",
                step,
                f"captions change nothing: of what makes images differ {share:.1%} is the caption "
                "and the rest the noise. Look at whether captions fit their images "
                "(jobs/inspect_data.py), and prepare with --transform whiten or another --encoder.",
            )
        return {"health/text_effect": share}

    def held_out(
        self, step: int, training: Tensor, held_out: Tensor, drawn: Tensor
    ) -> dict[str, float]:
        """Check whether the discriminator knows the training images, and return metrics to log.

        Args:
            step: When the images were judged.
            training: Logits of real images that it trains on, unchanged, [N].
            held_out: Logits of real images that it does not train on, [M].
            drawn: Logits of drawn images, [K].
        """
        metrics = {
            "logit/training": float(training.mean()),
            "logit/held_out": float(held_out.mean()),
        }
        parted, known = _difference(training, held_out), _difference(training, drawn)
        if not known:  # it does not tell real images from drawn ones
            self.seen.overfits = 0
            return metrics
        share = parted / known
        overfits = step >= LEARNING_FROM and parted > PARTED and share > OVERFIT
        self.seen.overfits = self.seen.overfits + 1 if overfits else 0
        if self.seen.overfits >= OVERFIT_MEASURES:
            self._tell_once(
                "health.discriminator_overfits",
                step,
                "the discriminator learns its images by heart: its logits are "
                f"{metrics['logit/training']:+.2f} for training images, "
                f"{metrics['logit/held_out']:+.2f} for held-out ones, and "
                f"{float(drawn.mean()):+.2f} for drawn ones. Try "
                + ("more kinds of " if self.augmented else "")
                + "--augment (docs/training.md says which), or more images, in a new run.",
            )
        return metrics | {"health/overfit": share}

    def _tell_once(self, tag: str, step: int, text: str) -> None:
        if tag not in self.seen.told:
            self.seen.told.append(tag)
            self.tell(tag, f"step {step}", f"step {step:,}: {text}")


class StragglerDetector:
    """Logs once, and tags the run, which worker the others wait for; training continues."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell
        self.in_a_row: dict[int, int] = {}
        self.told: set[int] = set()

    def interval(self, step: int, own_s: Sequence[float]) -> None:
        """Check an interval.

        Args:
            step: Step at its end.
            own_s: Seconds that each worker worked on a step, without waiting for others.
        """
        for worker, own in enumerate(own_s):
            others = statistics.median([*own_s[:worker], *own_s[worker + 1 :]] or [own])
            slow = own > SLOW * others
            self.in_a_row[worker] = self.in_a_row.get(worker, 0) + 1 if slow else 0
            if self.in_a_row[worker] < SLOW_INTERVALS or worker in self.told:
                continue
            self.told.add(worker)
            self.tell(
                "health.slow_worker",
                f"worker {worker} at step {step}",
                f"step {step:,}: the other workers wait for worker {worker}, which takes "
                f"{own:.3g} s for its part of a step; the others take {others:.3g} s. Check its "
                "machine: other processes, clock rate and temperature, access to the data.",
            )


def is_at_chance(share: float, chance: float) -> bool:
    """Tell whether a share of right answers is hardly more than blind ones would reach."""
    return share < chance + min(chance, AT_CHANCE * (1 - chance))


def distance(images: Tensor) -> float:
    """Return the mean distance of pairs of images; 0 for one image.

    Args:
        images: uint8, [N, 3, H, W].

    Returns:
        Root mean square over pixels and colours of thumbnails, in [0, 255].
    """
    if len(images) < 2:
        return 0.0
    return float(functional.pdist(_thumbnails(images)).mean())


def _difference(one: Tensor, other: Tensor) -> float:
    """Return by how much the mean of one sample [N] is larger, or 0 if that may be by chance."""
    if min(len(one), len(other)) < 2:
        return 0.0
    error = float((one.var() / len(one) + other.var() / len(other)).sqrt())
    difference = float(one.mean() - other.mean())
    return difference if difference > SURE * error else 0.0


def _apart(one: Tensor, other: Tensor) -> Tensor:
    """Return the mean distance of image n of one set from image n of the other."""
    return (_thumbnails(one) - _thumbnails(other)).norm(dim=1).mean()


def _thumbnails(images: Tensor) -> Tensor:
    """Shrink images, and scale them so that distances are root mean squares."""
    small = functional.adaptive_avg_pool2d(images.double(), THUMBNAIL).flatten(1)
    return small / small.shape[1] ** 0.5
