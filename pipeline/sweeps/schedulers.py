"""Schedulers of trials: Ray Tune's ASHA and population based training, resumable after a kill.

ASHA keeps its state: the points of finished trials are reported to it again. Population based
training decides from the running trials; the trials' records store which weights were taken over.
"""

import uuid
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining, TrialScheduler

from pipeline.sweeps.space import Space
from pipeline.sweeps.study_folder import TrialRecord

PROGRESS, SCORE = "progress", "score"  # reported by trials: share of their steps, and the metric


class Halving(ASHAScheduler):  # type: ignore[misc]
    """ASHA (https://arxiv.org/abs/1810.05934) by share of steps, which also knows earlier trials.

    Args:
        mode: Direction of the score, "max" or "min".
        grace: Share of its length that each trial runs for.
        reduction: At each check, one of so many trials continues.
    """

    def __init__(self, mode: str, grace: float, reduction: float) -> None:
        # No decision at the end of a trial: stopping it there saves nothing.
        super().__init__(
            time_attr=PROGRESS,
            metric=SCORE,
            mode=mode,
            max_t=1,
            grace_period=grace,
            reduction_factor=reduction,
            stop_last_trials=False,
        )

    def remember(self, trials: Iterable[TrialRecord]) -> None:
        """Report trials that finished in an earlier start, as if they had just run."""
        for record in trials:
            trial = SimpleNamespace(trial_id=f"done-{record.number}")
            self.on_trial_add(None, trial)
            for step, score in record.curve:
                told = {PROGRESS: progress(step, record.total), SCORE: score}
                self.on_trial_result(None, trial, told)
            self.on_trial_remove(None, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide whether a trial continues."""
        if result.get(PROGRESS, 0) >= 1:
            return str(TrialScheduler.CONTINUE)
        return str(super().on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Forget a finished trial; its points were reported already."""
        self._trial_info.pop(trial.trial_id, None)


class Population(PopulationBasedTraining):  # type: ignore[misc]
    """Population based training (https://arxiv.org/abs/1711.09846) over a `Space`.

    Args:
        mode: Direction of the score, "max" or "min".
        every: Share of its length after which a trial may take over weights.
    """

    def __init__(self, space: Space, mode: str, every: float, seed: int) -> None:
        self._space, self._rng = space, np.random.default_rng(seed)
        super().__init__(
            time_attr=PROGRESS,
            metric=SCORE,
            mode=mode,
            perturbation_interval=every,
            custom_explore_fn=lambda config: config,
            log_config=False,
            require_attrs=False,
        )

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], Any]:
        """Return the trial whose weights a trial takes over, and its new values."""
        own, other = trial.config["trial"], trial_to_clone.config["trial"]
        values = {
            name: domain.perturb(other["values"][name], self._rng)
            for name, domain in self._space.items()
        }
        adopted = {"of": other["number"], "as": uuid.uuid4().hex}
        return {"trial": {"number": own["number"], "values": values, "weights": adopted}}, {}


def progress(step: int, total: int) -> float:
    """Return the share of a trial's steps that are done, plus 1e-9, so that 0.3 is 3 × 0.1."""
    return step / total + 1e-9
