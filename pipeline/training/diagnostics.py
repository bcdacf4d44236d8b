"""Detect mode collapse, a discriminator that has won, and stragglers."""

import statistics
from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional

WON_LOSS = 0.05  # of the discriminator; it is 2 if it distinguishes nothing
WON_ACCURACY = 0.99
LOST_GRADIENT = 1e-3  # share of the generator's largest gradient
CONSTANT_LOSS = 1e-3  # change of the generator's loss from one interval to the next, relative
SILENT_INTERVALS = 5
ALIKE = 0.25  # distance of generated images, as a share of that of real ones
THUMBNAIL = 16  # pixels: shows differences of images, without their noise
SLOW = 1.5  # times the step time of the other workers
SLOW_INTERVALS = 3  # in a row

Tell = Callable[[str, str, str], None]  # takes the name of a tag, its value and the message


class CollapseDetector:
    """Logs once, and tags the run, when a GAN collapses; training continues.

    Args:
        tell: Logs a message and tags the run.
        real: Real images of the sample grid's captions, uint8, [N, 3, H, W].
    """

    def __init__(self, tell: Tell, real: Tensor) -> None:
        self.tell = tell
        self.real_distance = distance(real)
        self.silent = 0
        self.largest_gradient = 0.0
        self.last_loss: float | None = None
        self.differed = False
        self.told: set[str] = set()

    def interval(self, step: int, measured: dict[str, float]) -> dict[str, float]:
        """Check the means of an interval, and return metrics to log with them.

        Args:
            step: Step at its end.
            measured: Metrics by name, with those of `train_step`.
        """
        loss, gradient = measured["loss/generator"], measured["gradient/generator"]
        won = (
            measured["loss/discriminator"] < WON_LOSS
            or measured["health/discriminator_accuracy"] > WON_ACCURACY
        )
        constant = self.last_loss is not None and (
            abs(loss - self.last_loss) < CONSTANT_LOSS * max(1.0, abs(loss))
        )
        lost = constant or gradient < LOST_GRADIENT * self.largest_gradient
        self.largest_gradient, self.last_loss = max(self.largest_gradient, gradient), loss
        self.silent = self.silent + 1 if won and lost else 0
        collapsed = self.silent >= SILENT_INTERVALS
        if collapsed:
            self._tell_once(
                "health.discriminator_collapse",
                step,
                f"the discriminator has won for {self.silent} intervals, and the generator learns "
                "nothing from it any more. Try a lower --optim.discriminator-lr or a larger "
                "--optim.penalty-weight, in a new run.",
            )
        return {"health/discriminator_collapse": float(collapsed)}

    def samples(self, step: int, images: Tensor) -> dict[str, float]:
        """Check images of the sample grid, uint8, [N, 3, H, W], and return metrics to log."""
        if not self.real_distance:  # one image, or several equal ones
            return {}
        share = distance(images) / self.real_distance
        if self.differed and share < ALIKE:
            self._tell_once(
                "health.mode_collapse",
                step,
                f"the images of the sample grid have become alike: they differ {share:.0%} as much "
                "as real ones. Try a lower --optim.generator-lr or a larger --optim.batch-size, in "
                "a new run.",
            )
        self.differed = self.differed or share >= ALIKE
        return {"health/sample_distance": share}

    def _tell_once(self, tag: str, step: int, text: str) -> None:
        if tag not in self.told:
            self.told.add(tag)
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


def distance(images: Tensor) -> float:
    """Return the mean distance of pairs of images; 0 for one image.

    Args:
        images: uint8, [N, 3, H, W].

    Returns:
        Root mean square over pixels and colours of thumbnails, in [0, 255].
    """
    if len(images) < 2:
        return 0.0
    small = functional.adaptive_avg_pool2d(images.double(), THUMBNAIL).flatten(1)
    return float(functional.pdist(small).mean()) / small.shape[1] ** 0.5
