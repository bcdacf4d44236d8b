"""Search algorithms: random, grid, or Optuna.

A choice depends on the seed, the number of the trial, and for Optuna on the finished trials. So
another process makes the same choice.
"""

from typing import Any, Protocol

import numpy as np

from pipeline.sweeps.space import Choice, Real, Space, Value, Whole, every_combination
from pipeline.sweeps.study_folder import TrialRecord

Values = dict[str, Value]


class Proposals(Protocol):
    """Chooses values.

    Attributes:
        wait: Whether values depend on earlier trials, so that each is chosen when it starts.
    """

    wait: bool

    def propose(self, number: int) -> Values:
        """Choose the values of a trial."""

    def learn(self, trial: TrialRecord) -> None:
        """Use the result of a finished trial; called once for each."""


class AtRandom:
    """Draws each value from its domain."""

    wait = False

    def __init__(self, space: Space, seed: int) -> None:
        self.space, self.seed = space, seed

    def propose(self, number: int) -> Values:
        """Draw the values of a trial: always the same for the same number."""
        rng = np.random.default_rng([self.seed, number])
        return {name: domain.sample(rng) for name, domain in self.space.items()}

    def learn(self, trial: TrialRecord) -> None:
        """Nothing is learnt."""


class Grid:
    """All combinations, in order; every domain is a `Choice`."""

    wait = False

    def __init__(self, space: Space) -> None:
        self.combinations = every_combination(space)

    def propose(self, number: int) -> Values:
        """Return a combination."""
        return self.combinations[number]

    def learn(self, trial: TrialRecord) -> None:
        """Nothing is learnt."""


class Optuna:
    """Optuna's tree-structured Parzen estimator: values near those of good trials.

    Args:
        mode: Direction of the metric, "max" or "min".

    Raises:
        ValueError: If Optuna is not installed.
    """

    wait = True

    def __init__(self, space: Space, seed: int, mode: str) -> None:
        try:
            import optuna
        except ImportError as error:
            raise ValueError(
                "search=optuna needs the package optuna, which is not installed: "
                "pip install 'ratgan[sweep]', or use --search random."
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self.seed, self.mode = optuna, seed, mode
        self.study = optuna.create_study(direction="maximize" if mode == "max" else "minimize")
        self.choices = {n: d.values for n, d in space.items() if isinstance(d, Choice)}
        self.domains = space
        self.distributions = {name: self._distribution(space[name]) for name in space}

    def propose(self, number: int) -> Values:
        """Return values: the same for the same number after the same trials."""
        sampler = self._optuna.samplers.TPESampler(seed=self.seed + number, n_startup_trials=5)
        self.study.sampler = sampler
        asked = self.study.ask(self.distributions)
        # `learn` adds the trial with the values that were trained, so the asked one is discarded.
        self.study.tell(asked, state=self._optuna.trial.TrialState.FAIL)
        return {name: self._value(name, asked.params[name]) for name in self.domains}

    def learn(self, trial: TrialRecord) -> None:
        """Add the result of a trial; a failed one is ignored."""
        best = trial.best(self.mode)
        if best is None or trial.status == "failed":
            return
        params = {
            name: self.choices[name].index(value) if name in self.choices else value
            for name, value in trial.values.items()
        }
        self.study.add_trial(
            self._optuna.trial.create_trial(
                params=params, distributions=self.distributions, value=best[1]
            )
        )

    def _distribution(self, domain: Any) -> Any:
        kinds = self._optuna.distributions
        if isinstance(domain, Choice):  # by index: a value may be a list
            return kinds.CategoricalDistribution(range(len(domain.values)))
        if isinstance(domain, Whole):
            return kinds.IntDistribution(domain.low, domain.extremes()[1], step=domain.step)
        return kinds.FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)

    def _value(self, name: str, found: Any) -> Value:
        if name in self.choices:
            return self.choices[name][int(found)]
        domain = self.domains[name]
        return domain.round_to_step(float(found)) if isinstance(domain, Real) else int(found)
