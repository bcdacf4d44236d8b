"""How sure a number is: an interval, from what the number is without each part of the images.

The images are put into parts, both sets alike, and the number is taken again without each part
(jackknife of groups, https://doi.org/10.1214/aos/1176347263). It is valid for sums and for smooth
functions of them, needs no copies of an image (which a bootstrap makes, and which pull a Fréchet
distance up), and says how far the number itself is off for want of images (its bias).

An interval is where the number would lie at the same counts with other images: an estimate whose
bias is known is not moved by it.

Dimensions in this file:
    G parts.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

LEVEL = 0.9
NORMAL = 1.6448536  # its quantile at 95 %: 5 % lie beyond each end
PARTS = 20


@dataclass(frozen=True)
class Spread:
    """Where a number lies.

    Attributes:
        low: Lower end of the interval.
        high: Upper end.
        method: How it was found.
        bias: By how much the number is too high for want of images; None if it is not known or 0.
        left_out: The number without each part, [G]; empty if it was not taken so.
        level: Share of repetitions in which the interval holds.
    """

    low: float
    high: float
    method: str
    bias: float | None = None
    left_out: tuple[float, ...] = ()
    level: float = LEVEL

    def record(self) -> dict[str, Any]:
        """Return it as JSON types, without what is not known."""
        known = asdict(self) | {"left_out": list(self.left_out)}
        return {name: value for name, value in known.items() if value not in (None, [])}


def deviation(left_out: Sequence[float]) -> float:
    """Return the standard deviation of a number, given what it is without each part, [G]."""
    values = torch.tensor(left_out, dtype=torch.float64)
    return math.sqrt(float((len(values) - 1) * values.var(correction=0)))


def student(freedom: int) -> float:
    """Return the quantile at 95 % of Student's distribution, to 0.001 from 5 degrees on."""
    z = NORMAL
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def from_blocks(value: float, blocks: Sequence[float]) -> list[float]:
    """Return what a share would be without each part, from what it is in each part alone, [G].

    For shares that are not smooth, as those by nearest neighbours: to leave a part out would shake
    them more than other images do. They depend on how many images there are, but how much they
    vary, as a share of p (1 − p), falls as one over that number.

    Args:
        value: The share of all images.
        blocks: It in each part alone, [G].
    """
    mean = sum(blocks) / len(blocks)
    single = mean * (1 - mean)
    scale = math.sqrt(value * (1 - value) / single) if single > 0 else 1.0
    return [value - scale * (block - mean) / (len(blocks) - 1) for block in blocks]


def of_number(
    value: float, left_out: Sequence[float], what: str, *, biased: bool = False, least: float
) -> Spread:
    """Return the interval of a number.

    Args:
        value: The number.
        left_out: It without each part, [G].
        what: The parts are of, such as "captions".
        biased: Whether it depends on how many images there are; then its bias is found too.
        least: That it can be.
    """
    reach = student(len(left_out) - 1) * deviation(left_out)
    bias = (len(left_out) - 1) * (sum(left_out) / len(left_out) - value) if biased else None
    return Spread(
        max(least, value - reach),
        max(least, value + reach),
        f"jackknife of {len(left_out)} parts of the {what}",
        bias,
        tuple(left_out),
    )


def of_share(value: float, left_out: Sequence[float], what: str, count: int) -> Spread:
    """Return the interval of a share of images: Wilson's, for as many images as its spread says.

    Args:
        value: The share.
        left_out: It without each part, [G].
        what: The parts are of, such as "captions".
        count: Independent images or captions at most: of this many, if all parts are alike.
    """
    variance, single = deviation(left_out) ** 2, value * (1 - value)
    worth = min(single / variance, count) if min(variance, single) > 0 else count
    low, high = wilson(value, worth, student(len(left_out) - 1))
    method = f"Wilson, spread by jackknife of {len(left_out)} parts of the {what}"
    return Spread(low, high, method, left_out=tuple(left_out))


def of_count(value: float, count: int) -> Spread:
    """Return the interval of a share of so many independent images: Wilson's."""
    return Spread(*wilson(value, count), f"Wilson of {count:,} images")


def wilson(share: float, count: float, quantile: float = NORMAL) -> tuple[float, float]:
    """Return Wilson's interval (https://doi.org/10.1080/01621459.1927.10502953)."""
    square = quantile**2 / count
    middle = (share + square / 2) / (1 + square)
    reach = quantile / (1 + square) * math.sqrt(share * (1 - share) / count + square / count / 4)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def difference(one: Spread, other: Spread) -> float:
    """Return how far two numbers are apart by chance alone, at the same level.

    Where both were taken without the same parts of the same captions and real images, what these
    have in common is no difference; else both vary by themselves.
    """
    # Parts that are all alike, as of a share of 1, do not say that the number is certain.
    vary = all(len(set(each.left_out)) > 1 for each in (one, other))
    if vary and len(one.left_out) == len(other.left_out):
        apart = [a - b for a, b in zip(one.left_out, other.left_out, strict=True)]
        return student(len(apart) - 1) * deviation(apart)
    return math.hypot(*((each.high - each.low) / 2 for each in (one, other)))
