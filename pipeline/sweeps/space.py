"""The search space of a sweep: options and their domains, parsed from a small grammar.

    optim.generator_lr=loguniform(5e-5, 5e-4)
    optim.penalty_weight=quniform(1, 4, 0.5)
    optim.betas=choice([0.0, 0.9], [0.5, 0.999])

An expression is a name from `FUNCTIONS` with numbers, words, true, false, null or lists in its
brackets. It is parsed, never executed.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Value = Any  # a number, a word, true, false, null, or a list of these, as in JSON
Space = Mapping[str, "Domain"]  # by option

FUNCTIONS = {
    "uniform": "uniform(LOW, HIGH)",
    "loguniform": "loguniform(LOW, HIGH)",
    "quniform": "quniform(LOW, HIGH, STEP)",
    "randint": "randint(LOW, HIGH), both included",
    "qrandint": "qrandint(LOW, HIGH, STEP), both included",
    "choice": "choice(A, B, …)",
}
DIGITS = 4  # of a sampled number: tables show exactly the value that was used
RESAMPLE = 0.25  # probability of a new sample instead of a small change
FACTORS = (0.8, 1.25)  # of a small change
TOKEN = re.compile(
    r"\s*(?:(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))"
    r"|(?P<word>[A-Za-z_][\w./-]*)|(?P<quoted>'[^']*'|\"[^\"]*\")|(?P<mark>[()\[\],])|(?P<end>$))"
)
CONSTANTS = {"true": True, "false": False, "null": None}  # none is a word: a kind of attention


class Domain(Protocol):
    """The possible values of one option."""

    def sample(self, rng: np.random.Generator) -> Value:
        """Draw a value."""

    def perturb(self, value: Value, rng: np.random.Generator) -> Value:
        """Change a value a little, or sometimes draw a new one."""

    def extremes(self) -> Sequence[Value]:
        """Return values to check: if all of them are valid, every value is."""


@dataclass(frozen=True)
class Real:
    """Numbers between two ends, both included.

    Attributes:
        low: Lower end.
        high: Upper end.
        log: Whether the distribution is uniform in the logarithm.
        step: If given, only multiples of it above `low`.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def sample(self, rng: np.random.Generator) -> float:
        """Draw a number."""
        if self.log:
            return self.round_to_step(
                math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
            )
        return self.round_to_step(rng.uniform(self.low, self.high))

    def perturb(self, value: float, rng: np.random.Generator) -> float:
        """Multiply a number by one of `FACTORS`."""
        if rng.random() < RESAMPLE:
            return self.sample(rng)
        changed = self.round_to_step(value * float(rng.choice(FACTORS)))
        if changed == value and self.step:
            changed = self.round_to_step(value + self.step * float(rng.choice([-1, 1])))
        return changed

    def round_to_step(self, value: float) -> float:
        """Return the nearest number of this domain, with few digits."""
        if self.step:
            value = self.low + round((value - self.low) / self.step) * self.step
            return min(max(float(f"{value:.12g}"), self.low), self.high)
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def extremes(self) -> Sequence[float]:
        """Return both ends."""
        return self.low, self.high


@dataclass(frozen=True)
class Whole:
    """Whole numbers between two ends, both included.

    Attributes:
        low: Lower end.
        high: Upper end.
        step: Only multiples of it above `low`.
    """

    low: int
    high: int
    step: int = 1

    def sample(self, rng: np.random.Generator) -> int:
        """Draw a number."""
        return int(self.low + self.step * rng.integers(self._count()))

    def perturb(self, value: int, rng: np.random.Generator) -> int:
        """Multiply a number by one of `FACTORS`, and change it by at least one step."""
        if rng.random() < RESAMPLE:
            return self.sample(rng)
        factor = float(rng.choice(FACTORS))
        steps = max(1, round(abs(value * factor - value) / self.step))
        moved = value + (steps if factor > 1 else -steps) * self.step
        return min(max(moved, self.low), self.low + (self._count() - 1) * self.step)

    def extremes(self) -> Sequence[int]:
        """Return both ends."""
        return self.low, self.low + (self._count() - 1) * self.step

    def _count(self) -> int:
        return (self.high - self.low) // self.step + 1


@dataclass(frozen=True)
class Choice:
    """A list of values; population based training changes a value to a neighbour."""

    values: tuple[Value, ...]

    def sample(self, rng: np.random.Generator) -> Value:
        """Draw one."""
        return self.values[int(rng.integers(len(self.values)))]

    def perturb(self, value: Value, rng: np.random.Generator) -> Value:
        """Take a neighbour."""
        if rng.random() < RESAMPLE or value not in self.values:
            return self.sample(rng)
        place = self.values.index(value) + int(rng.choice([-1, 1]))
        return self.values[min(max(place, 0), len(self.values) - 1)]

    def extremes(self) -> Sequence[Value]:
        """Return all values."""
        return self.values


def parse_space(entries: Sequence[str]) -> dict[str, Domain]:
    """Read entries of the form ``option=expression``; a later one replaces an earlier.

    Raises:
        ValueError: If one cannot be read.
    """
    space: dict[str, Domain] = {}
    for entry in entries:
        name, equals, expression = entry.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise ValueError(
                f"space={entry!r} must be OPTION=EXPRESSION, for example "
                "optim.generator_lr=loguniform(5e-5,5e-4)."
            )
        space[name] = parse_domain(expression.strip(), name)
    return space


def parse_domain(expression: str, name: str) -> Domain:
    """Parse an expression.

    Args:
        expression: For example ``loguniform(5e-5,5e-4)``.
        name: Name of the option, for errors.

    Raises:
        ValueError: If the expression or its numbers are invalid.
    """
    function, arguments = _Reader(expression, name).call()
    if function == "choice":
        if len(arguments) < 2:
            raise ValueError(f"space: {name}={expression} must choose between two values or more.")
        return Choice(tuple(arguments))
    stepped = function in ("quniform", "qrandint")
    numbers = [a for a in arguments if isinstance(a, int | float) and not isinstance(a, bool)]
    if len(numbers) != len(arguments) or len(numbers) != 2 + stepped:
        raise ValueError(f"space: {name}={expression} must be {FUNCTIONS[function]}.")
    low, high = numbers[:2]
    if low >= high:
        raise ValueError(f"space: {name}={expression} must have LOW below HIGH.")
    if stepped and not 0 < numbers[2] <= high - low:
        raise ValueError(f"space: {name}={expression} must have 0 < STEP <= HIGH - LOW.")
    if function == "loguniform" and low <= 0:
        raise ValueError(f"space: {name}={expression} must have LOW above 0, for example 1e-5.")
    if function in ("randint", "qrandint"):
        if any(int(number) != number for number in numbers):
            raise ValueError(f"space: {name}={expression} must have whole numbers.")
        return Whole(*(int(number) for number in numbers))
    step = float(numbers[2]) if stepped else None
    if step:
        high = low + int((high - low) / step + 1e-9) * step
    return Real(float(low), float(high), log=function == "loguniform", step=step)


def every_combination(space: Space) -> list[dict[str, Value]]:
    """Return all combinations of the values; the last option changes fastest.

    Raises:
        ValueError: If an option has no list of values.
    """
    for name, domain in space.items():
        if not isinstance(domain, Choice):
            raise ValueError(f"space: {name} must be choice(…) to train all combinations.")
    lists = [domain.extremes() for domain in space.values()]
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*lists)]


class _Reader:
    """Reads one expression from left to right."""

    def __init__(self, text: str, name: str) -> None:
        self.text, self.name, self.place = text, name, 0

    def call(self) -> tuple[str, list[Value]]:
        """Read a function and its arguments, to the end."""
        kind, function = self._next()
        if kind != "word" or function not in FUNCTIONS:
            self._refuse(f"must start with one of {', '.join(FUNCTIONS)}")
        if self._next() != ("mark", "("):
            self._refuse(f"needs brackets after {function}")
        arguments = self._values(")")
        if self._next()[0] != "end":
            self._refuse("has text after its closing bracket")
        return function, arguments

    def _values(self, closing: str) -> list[Value]:
        """Read values up to a closing bracket."""
        values: list[Value] = []
        while True:
            values.append(self._value())
            mark = self._next()
            if mark == ("mark", closing):
                return values
            if mark != ("mark", ","):
                self._refuse(f"needs a comma or {closing} after {values[-1]!r}")

    def _value(self) -> Value:
        kind, text = self._next()
        if kind == "number":
            return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
        if kind == "word":
            return CONSTANTS.get(text, text)
        if kind == "quoted":
            return text[1:-1]
        if (kind, text) == ("mark", "["):
            return self._values("]")
        return self._refuse(f"needs a value before {text or 'its end'}")

    def _next(self) -> tuple[str, str]:
        found = TOKEN.match(self.text, self.place)
        if found is None:
            return self._refuse(f"cannot be parsed from {self.text[self.place :]!r}")
        self.place = found.end()
        kind = str(found.lastgroup)
        return kind, found[kind]

    def _refuse(self, why: str) -> Any:
        raise ValueError(
            f"space: {self.name}={self.text} {why}. It must be one of "
            f"{'; '.join(FUNCTIONS.values())}."
        )
