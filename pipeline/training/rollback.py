"""Count skipped steps, and roll a run back after too many of them in a row."""

from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ratgan.options import Precision


class Skips:
    """Counts skipped steps on the device; the counts are the same on every worker.

    Args:
        total: Number of skipped steps before this start.
    """

    def __init__(self, device: torch.device, total: int = 0) -> None:
        self._total = torch.tensor(float(total), device=device)
        self._in_a_row = torch.zeros((), device=device)

    def add(self, skipped: Tensor) -> None:
        """Count a step; `skipped` is 1 if it was skipped, otherwise 0."""
        self._total = self._total + skipped
        self._in_a_row = (self._in_a_row + 1) * skipped

    def end_row(self) -> None:
        """Reset the number of skipped steps in a row, after a rollback."""
        self._in_a_row = torch.zeros_like(self._in_a_row)

    def total(self) -> int:
        """Return the number of skipped steps; waits for the device."""
        return int(self._total)

    def in_a_row(self) -> int:
        """Return the number of skipped steps in a row; waits for the device."""
        return int(self._in_a_row)


@dataclass(frozen=True)
class BatchOffset:
    """Offset of a run's batches, stored in checkpoints so that a resumed run uses the same ones.

    Attributes:
        passed_over: Batches skipped by rollbacks: step n uses batch n + passed_over.
    """

    passed_over: int = 0
    rollbacks: int = 0

    @classmethod
    def of(cls, state: dict[str, Any]) -> "BatchOffset":
        """Read it from the state of a checkpoint; old checkpoints have none, and get 0."""
        return cls(**{field.name: state.get(field.name, 0) for field in fields(cls)})

    def record(self) -> dict[str, int]:
        """Return it as JSON types."""
        return asdict(self)

    def back(self, step: int, target: int) -> "BatchOffset":
        """Return the offset after a rollback from `step` to `target`."""
        return BatchOffset(self.passed_over + step - target, self.rollbacks + 1)


def refuse_to_go_back(
    step: int,
    target: int | None,
    skips: int,
    course: BatchOffset,
    *,
    allowed: int,
    precision: Precision,
) -> None:
    """Stop a run that cannot roll back again.

    Args:
        target: Step of its last checkpoint; None if there is none.
        skips: Skipped steps in a row.
        course: Offset of the run, with the number of its rollbacks.
        allowed: Permitted number of rollbacks.
        precision: Of the run.

    Raises:
        ValueError: If no rollback is left, or there is no checkpoint.
    """
    happened = f"at step {step:,} the last {skips:,} steps had losses or gradients not finite"
    exact = "" if precision == "float32" else ", or --precision float32,"
    advice = (
        f"Try a lower --optim.discriminator-lr and --optim.generator-lr, or --optim.warmup-steps"
        f"{exact} in a new run with another --name."
    )
    if target is None:
        raise ValueError(f"{happened}, and there is no checkpoint yet for a rollback. {advice}")
    if course.rollbacks >= allowed:
        raise ValueError(
            f"{happened}, and the run has rolled back {course.rollbacks} times already "
            f"(health.rollbacks={allowed}). Its last checkpoint is of step {target:,}. {advice}"
        )
