"""Schedulers of trials: Ray Tune's ASHA and population based training, resumable after a kill.

ASHA forgets nothing: the curves of trials that are done are told to it anew. Population based
training decides from what runs now, and who took over whose weights is in the trials' records.
"""

import uuid
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining, TrialScheduler

from pipeline.sweeps.space import Space
from pipeline.sweeps.study_folder import TrialRecord

PROGRESS, SCORE = "progress", "score"  # what trials report: share of the way, and the metric


class Halving(ASHAScheduler):  # type: ignore[misc]
    """ASHA (https://arxiv.org/abs/1810.05934) by share of the way, that also knows earlier trials.

    Args:
        mode: Direction of the score, "max" or "min".
        grace: Share of its length that each trial is trained for.
        reduction: One of so many goes on each time.
    """

    def __init__(self, mode: str, grace: float, reduction: float) -> None:
        # Nothing is decided at the end, where there is nothing left to save.
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
        """Tell of trials that were done in an earlier start, as if they had just run."""
        for record in trials:
            trial = SimpleNamespace(trial_id=f"done-{record.number}")
            self.on_trial_add(None, trial)
            for step, score in record.curve:
                told = {PROGRESS: progress(step, record.total), SCORE: score}
                self.on_trial_result(None, trial, told)
            self.on_trial_remove(None, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide whether a trial goes on."""
        if result.get(PROGRESS, 0) >= 1:
            return str(TrialScheduler.CONTINUE)
        return str(super().on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Take note of the end of a trial; its points were told already."""
        self._trial_info.pop(trial.trial_id, None)


class Population(PopulationBasedTraining):  # type: ignore[misc]
    """Population based training (https://arxiv.org/abs/1711.09846) over our own space.

    Args:
        space: What varies.
        mode: Direction of the score, "max" or "min".
        every: Share of its length after which a trial may take over weights.
        seed: Of the changes.
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
        """Say which trial's weights a trial goes on from, and with which values."""
        own, other = trial.config["trial"], trial_to_clone.config["trial"]
        values = {
            name: domain.perturb(other["values"][name], self._rng)
            for name, domain in self._space.items()
        }
        adopted = {"of": other["number"], "as": uuid.uuid4().hex}
        return {"trial": {"number": own["number"], "values": values, "weights": adopted}}, {}


def progress(step: int, total: int) -> float:
    """Return the share of the way that a trial has come; a hair more, so that 0.3 is 3 × 0.1."""
    return step / total + 1e-9
