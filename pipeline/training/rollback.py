"""Count skipped steps, and roll a run back after too many of them in a row."""

from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor


class Skips:
    """Counts the steps that were left out, on the device; the same on every worker.

    Args:
        device: Where steps are done.
        total: How many there were before this start.
    """

    def __init__(self, device: torch.device, total: int = 0) -> None:
        self._total = torch.tensor(float(total), device=device)
        self._in_a_row = torch.zeros((), device=device)

    def add(self, skipped: Tensor) -> None:
        """Count a step, given 1 if it was left out and 0 if not."""
        self._total = self._total + skipped
        self._in_a_row = (self._in_a_row + 1) * skipped

    def end_row(self) -> None:
        """Forget that the last steps were left out: the run has gone back."""
        self._in_a_row = torch.zeros_like(self._in_a_row)

    def total(self) -> int:
        """Return how many there were; waits for the device."""
        return int(self._total)

    def in_a_row(self) -> int:
        """Return how many of the last steps were; waits for the device."""
        return int(self._in_a_row)


@dataclass(frozen=True)
class BatchOffset:
    """Which batches a run takes, kept with its checkpoints so that a resumed run takes them too.

    Attributes:
        passed_over: Batches left out by going back: step n takes batch n + passed_over.
        rollbacks: How often the run went back.
    """

    passed_over: int = 0
    rollbacks: int = 0

    @classmethod
    def of(cls, state: dict[str, Any]) -> "BatchOffset":
        """Read it from the state of a checkpoint; one from before there was a course has none."""
        return cls(**{field.name: state.get(field.name, 0) for field in fields(cls)})

    def record(self) -> dict[str, int]:
        """Return it as JSON types."""
        return asdict(self)

    def back(self, step: int, target: int) -> "BatchOffset":
        """Go back from a step to an earlier one, and on with the batches after the first."""
        return BatchOffset(self.passed_over + step - target, self.rollbacks + 1)


def refuse_to_go_back(
    step: int, target: int, skips: int, course: BatchOffset, allowed: int
) -> None:
    """Stop a run that going back cannot help.

    Args:
        step: It has reached.
        target: Step of its last checkpoint; 0 if there is none.
        skips: Steps in a row that were left out.
        course: Of the run.
        allowed: Times that it may go back.

    Raises:
        ValueError: If it may not, or has nowhere to go back to.
    """
    happened = f"at step {step:,} the last {skips:,} steps had losses or gradients not finite"
    advice = (
        "Try a lower --optim.discriminator-lr and --optim.generator-lr or --precision float32 in a "
        "new run with another --name."
    )
    if not target:
        raise ValueError(f"{happened}, and there is no checkpoint yet to go back to. {advice}")
    if course.rollbacks >= allowed:
        raise ValueError(
            f"{happened}, and the run has gone back {course.rollbacks} times already "
            f"(health.rollbacks={allowed}). Its last checkpoint is of step {target:,}. {advice}"
        )
