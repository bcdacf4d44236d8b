"""Every option of a sweep or an ablation."""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import tyro
from pydantic import BaseModel, Field, ValidationError, model_validator

from pipeline.common.settings import Settings, explain
from pipeline.config import PositiveInt, RunName, TrainConfig
from pipeline.sweeps.space import Domain, Space, Value, every_combination, parse_space

Mode = Literal["max", "min"]
Share = Annotated[float, Field(gt=0, lt=1)]
# Entries OPTION=EXPRESSION; a flag adds one. In YAML also a mapping of options to expressions.
Entries = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


# By how their names begin; of the other curves only the user knows.
BETTER: dict[str, Mode] = {"eval/fd": "min", "eval/agreement": "max"}
# What the paper adds to its forerunners: the recurrent controller, and attention.
PAPER = ("model.recurrent=choice(true,false)", "model.attention=choice(soft_threshold,none)")
# What training takes from its options at each step; all else is fixed when a run begins.
PERTURBABLE = ("generator_lr", "discriminator_lr", "betas", "penalty_weight", "penalty_power")
# Options that may differ when a sweep is gone on with: they change no trial, or add some.
RESUMABLE = frozenset(
    {
        "concurrent",
        "retry_failed",
        "report",
        "seeds",
        "trials",
        "train.name",
        "train.output",
        "train.workers",
        "train.min_workers",
        "train.threads",
        "train.wait_for_room_s",
        "train.health.hang_s",
        "train.max_restarts",
        "train.keep_checkpoints",
        "train.data.path",
        "train.data.decode_threads",
        "train.data.reader",
    }
)
# What the sweep itself decides for each of its runs, or what they all must share to be compared.
DECIDED = {
    "name": "trials are named after the sweep",
    "output": "trials lie in the folder of the sweep",
    "workers": "all trials have as many, to be compared",
    "min_workers": "all trials have as many, to be compared",
    "extend": "all trials are as long, to be compared",
    "total_steps": "all trials are as long, to be compared",
    "total_epochs": "all trials are as long, to be compared",
    "allow_changes": "it is for resuming",
    "tracking.experiment": "trials are recorded with the sweep",
    "tracking.uri": "trials are recorded with the sweep",
}


class StudyConfig(Settings):
    """What sweeps and ablations have in common."""

    name: RunName | None = None
    """Name; its folder in the output folder has the same name. Default: that of the run, and what
    is done with it."""
    space: Entries = ()
    """What varies, an option each time: optim.generator_lr=loguniform(5e-5,5e-4). Also uniform,
    quniform and qrandint (with a step), randint, choice(A,B,…)."""
    metric: str = "eval/fd_builtin"
    """Curve that says how good a trial is: any that a run logs. Those of eval/ are measured each
    train.evaluate_every steps, or with every sample grid if that is not given."""
    mode: Mode = "min"
    """Whether more of it is better, or less."""
    steps: PositiveInt | None = None
    """Steps of each trial. Default: as many as the run has."""
    concurrent: PositiveInt | None = None
    """Trials at a time. Default: as many as there are CPUs or GPUs for."""
    retry_failed: bool = False
    """Go on with trials that failed before; otherwise they stay as they are."""
    train: TrainConfig
    """The run that is varied. Its output, tracking and workers hold for each trial."""

    @model_validator(mode="before")
    @classmethod
    def _read(cls, values: Any) -> Any:
        """Take the preset of a training for that of a sweep over it, and a mapping as a space."""
        if not isinstance(values, dict):
            return values
        if "train" not in values and not values.keys() & {"space", "metric"}:
            values = {"train": values}
        if isinstance(values.get("space"), dict):
            entries = tuple(f"{name}={text}" for name, text in values["space"].items())
            values = values | {"space": entries}
        return values

    @model_validator(mode="after")
    def _check_entries(self) -> Self:
        check_space(self.train, self.domains())
        return self

    @model_validator(mode="after")
    def _check_direction(self) -> Self:
        for beginning, better in BETTER.items():
            if self.metric.startswith(beginning) and self.mode != better:
                raise ValueError(
                    f"mode={self.mode}: {self.metric} is better where it is "
                    f"{'larger' if better == 'max' else 'smaller'}. Use --mode {better}."
                )
        return self

    def domains(self) -> dict[str, Domain]:
        """Return where the values of each option come from."""
        return parse_space(self.space)

    def run(self) -> TrainConfig:
        """Return the run that is varied: as long as trials are, and measuring the metric."""
        changes: dict[str, Any] = {"total_steps": self.steps, "extend": 0} if self.steps else {}
        if self.metric.startswith("eval/") and not self.train.evaluate_every:
            lines = -(-self.train.sample_every // self.train.log_every)
            changes["evaluate_every"] = lines * self.train.log_every
        return self.train.model_copy(update=changes)


class SweepConfig(StudyConfig):
    """Search for better options: train many runs, end the poor ones early, compare.

    Running the same command again finishes what was begun.
    """

    trials: PositiveInt = 16
    """Runs to train; all combinations with --search grid. More of them later add to a sweep."""
    search: Literal["random", "optuna", "grid"] = "random"
    """How values are chosen: at random, by Optuna from what was good so far, or all there are."""
    scheduler: Literal["asha", "pbt", "none"] = "asha"
    """asha ends poor trials early; pbt lets them go on from the weights of good ones, with their
    values changed a little, and all must run at a time; none trains all to the end."""
    grace: Share = 0.1
    """asha: share of its length that each trial is trained for. Looked at again after each
    `reduction` times as much."""
    reduction: Annotated[float, Field(gt=1)] = 3.0
    """asha: one of so many trials goes on each time."""
    perturb_every: Share = 0.1
    """pbt: share of its length after which a trial may take over weights."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Decides the values that are tried; that of the runs is train.seed."""

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        if self.scheduler == "pbt":
            _check_population(self)
        if self.search == "grid":
            every_combination(self.domains())
        return self

    def count(self) -> int:
        """Return the number of trials."""
        return len(every_combination(self.domains())) if self.search == "grid" else self.trials


class AblateConfig(StudyConfig):
    """Train every combination of some options with several seeds, and compare with spreads.

    Running the same command again finishes what was begun.
    """

    seeds: PositiveInt = 3
    """Runs of each combination, with seeds 0, 1, …"""
    report: tuple[str, ...] = ("eval/",)
    """Curves in the table beside the metric: their names, or how they begin."""

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if "seed" in self.domains():
            raise ValueError("space: seed cannot be varied here: use --seeds.")
        every_combination(self.domains())
        return self

    def domains(self) -> dict[str, Domain]:
        """Return the values of each option; those of controller and attention if none is named."""
        return parse_space(self.space or PAPER)


def _check_population(config: SweepConfig) -> None:
    """Refuse what population based training cannot do."""
    if config.search != "random":
        raise ValueError(
            f"scheduler=pbt chooses values itself: use --search random, not {config.search}."
        )
    if config.trials < 2:
        raise ValueError(f"trials={config.trials} must be at least 2 for scheduler=pbt.")
    allowed = {f"optim.{name}" for name in PERTURBABLE}
    if others := sorted(config.domains().keys() - allowed):
        raise ValueError(
            f"space: {', '.join(others)} cannot change while a run goes on, as scheduler=pbt has "
            f"it. It can vary {', '.join(sorted(allowed))}."
        )


def option_names(model: type[BaseModel] = TrainConfig, prefix: str = "") -> list[str]:
    """List all options by dotted name, in the order of the config."""
    names = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names += option_names(inner, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names


def check_space(base: TrainConfig, space: Space) -> None:
    """Refuse a space with options that are not there, may not vary, or get values they refuse.

    Raises:
        ValueError: Naming the option, and what it is called perhaps.
    """
    known = option_names()
    for name, domain in space.items():
        if name in DECIDED:
            raise ValueError(f"space: {name} cannot be varied: {DECIDED[name]}.")
        if name not in known:
            raise ValueError(f"space: there is no option {name}. {_nearest(name, known)}")
        for value in domain.extremes():
            try:
                with_values(base, {name: value})
            except ValueError as error:
                raise ValueError(f"space: {error}") from error


def with_values(base: TrainConfig, values: Mapping[str, Value]) -> TrainConfig:
    """Return a config with other values of some options.

    Raises:
        ValueError: If one is refused, or they do not go together.
    """
    fields: dict[str, Any] = base.model_dump()
    for name, value in values.items():
        *groups, option = name.split(".")
        place = fields
        for group in groups:
            place = place[group]
        place[option] = value
    try:
        return TrainConfig.model_validate(fields)
    except ValidationError as error:
        raise ValueError(explain(error)) from error


def _nearest(name: str, known: list[str]) -> str:
    by_ending = {each.rpartition(".")[2]: each for each in known}
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    last = name.rpartition(".")[2]
    near += [by_ending[e] for e in difflib.get_close_matches(last, by_ending, n=2, cutoff=0.7)]
    found = list(dict.fromkeys(near))
    if not found:
        return "All options: python jobs/train_coco.py --help."
    return f"Perhaps you meant {' or '.join(found[:3])}."
