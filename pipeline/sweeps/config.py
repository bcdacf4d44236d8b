"""Every option of a sweep or an ablation."""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import tyro
from pydantic import BaseModel, Field, ValidationError, model_validator

from pipeline.common.settings import Settings, explain
from pipeline.config import PositiveInt, RunName, TrainConfig
from pipeline.sweeps.space import Domain, Space, Value, every_combination, parse_space

Mode = Literal["max", "min"]
Share = Annotated[float, Field(gt=0, lt=1)]
# Entries OPTION=EXPRESSION; a flag adds one. In YAML also a mapping of options to expressions.
Entries = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


# By prefix of the metric's name; for other metrics only the user knows the direction.
BETTER: dict[str, Mode] = {"eval/fd": "min", "eval/kd": "min", "eval/agreement": "max"}
# The contributions of the paper: the recurrent controller, and attention.
PAPER = ("model.recurrent=choice(true,false)", "model.attention=choice(soft_threshold,none)")
# Options of a part of the model or the step, by the option that takes it out.
PARTS = {
    "model.controller_dim": "model.recurrent",
    "optim.matching_lr": "optim.matching_weight",
    "augment_adaptive": "augment",
}
# Options that training reads at each step; all others are fixed at the start of a run.
PERTURBABLE = ("generator_lr", "discriminator_lr", "betas", "penalty_weight", "penalty_power")
# Options that may differ when a sweep is resumed: they change no trial, or add some.
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
# Options that the sweep sets for each of its runs, or that must be equal for a comparison.
DECIDED = {
    "name": "trials are named after the sweep",
    "output": "trials are in the folder of the sweep",
    "workers": "a comparison needs equal numbers of workers",
    "min_workers": "a comparison needs equal numbers of workers",
    "extend": "a comparison needs trials of equal length",
    "total_steps": "a comparison needs trials of equal length",
    "total_epochs": "a comparison needs trials of equal length",
    "allow_changes": "it is for resuming",
    "tracking.experiment": "trials are logged with the sweep",
    "tracking.uri": "trials are logged with the sweep",
}


class StudyConfig(Settings):
    """The common options of sweeps and ablations."""

    name: RunName | None = None
    """Name, also of its folder in the output folder. Default: the name of the run with -sweep or
    -ablation."""
    space: Entries = ()
    """An option that varies, for example optim.generator_lr=loguniform(5e-5,5e-4). Also uniform,
    quniform and qrandint (with a step), randint, choice(A,B,…)."""
    metric: str = "eval/fd_builtin"
    """Metric that ranks the trials: any that a run logs. Those of eval/ are measured every
    train.evaluate_every steps, or with every sample grid if that is not given."""
    mode: Mode = "min"
    """Whether larger or smaller values of the metric are better."""
    steps: PositiveInt | None = None
    """Steps of each trial. Default: as many as the run has."""
    concurrent: PositiveInt | None = None
    """Trials at a time. Default: as many as there are CPUs or GPUs for."""
    retry_failed: bool = False
    """Resume trials that failed before; otherwise they stay as they are."""
    train: TrainConfig
    """The run that is varied. Its output, tracking and workers apply to each trial."""

    kind: ClassVar[str]

    @property
    def study(self) -> str:
        """Name of the study, and of its folder."""
        return self.name or f"{self.train.name}-{self.kind}"

    @model_validator(mode="before")
    @classmethod
    def _read(cls, values: Any) -> Any:
        """Accept the preset of a training as that of a sweep over it, and a mapping as a space."""
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
                    f"mode={self.mode}: {self.metric} is better if it is "
                    f"{'larger' if better == 'max' else 'smaller'}. Use --mode {better}."
                )
        return self

    def domains(self) -> dict[str, Domain]:
        """Return the domain of each option."""
        return parse_space(self.space)

    def run(self) -> TrainConfig:
        """Return the run that is varied, with the length of a trial, and measuring the metric."""
        changes: dict[str, Any] = {"total_steps": self.steps, "extend": 0} if self.steps else {}
        if self.metric.startswith("eval/") and not self.train.evaluate_every:
            lines = -(-self.train.sample_every // self.train.log_every)
            changes["evaluate_every"] = lines * self.train.log_every
        return self.train.model_copy(update=changes)

    def record(self, train: TrainConfig) -> dict[str, Any]:
        """Return what the folder of the study keeps of it; `train` has absolute places."""
        options = self.model_dump(mode="json", exclude={"name", "train"})
        return {**options, "name": self.study, "train": train.record()}


class SweepConfig(StudyConfig):
    """Search for better options: train many runs, stop the poor ones early, compare.

    The same command resumes a sweep.
    """

    kind: ClassVar[str] = "sweep"
    trials: PositiveInt = 16
    """Runs to train; all combinations with --search grid. A larger number later adds trials."""
    search: Literal["random", "optuna", "grid"] = "random"
    """How values are chosen: at random, by Optuna from earlier results, or all combinations."""
    scheduler: Literal["asha", "pbt", "none"] = "asha"
    """asha stops poor trials early; pbt continues them from the weights of good ones, with slightly
    changed values, and all must run at a time; none trains all to the end."""
    grace: Share = 0.1
    """asha: share of its length that each trial runs for. The next checks are each time after
    `reduction` times as many steps."""
    reduction: Annotated[float, Field(gt=1)] = 3.0
    """asha: at each check, one of so many trials continues."""
    perturb_every: Share = 0.1
    """pbt: share of its length after which a trial may take over weights."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the chosen values; the seed of the runs is train.seed."""

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

    The same command resumes an ablation.
    """

    kind: ClassVar[str] = "ablation"
    seeds: PositiveInt = 3
    """Runs of each combination, with seeds 0, 1, …"""
    report: tuple[str, ...] = ("eval/",)
    """Other metrics in the table: names, or prefixes of names."""

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if "seed" in self.domains():
            raise ValueError("space: seed cannot be varied here: use --seeds.")
        every_combination(self.domains())
        return self

    def domains(self) -> dict[str, Domain]:
        """Return the domain of each option; by default those of controller and attention."""
        return parse_space(self.space or PAPER)


def _check_population(config: SweepConfig) -> None:
    """Refuse options that population based training does not support."""
    if config.search != "random":
        raise ValueError(
            f"scheduler=pbt chooses values itself: use --search random, not {config.search}."
        )
    if config.trials < 2:
        raise ValueError(f"trials={config.trials} must be at least 2 for scheduler=pbt.")
    allowed = {f"optim.{name}" for name in PERTURBABLE}
    if others := sorted(config.domains().keys() - allowed):
        raise ValueError(
            f"space: {', '.join(others)} cannot change during a run, and scheduler=pbt changes "
            f"values during a run. It can vary {', '.join(sorted(allowed))}."
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
    """Refuse a space with unknown options, options that may not vary, or invalid values.

    Raises:
        ValueError: With the option, and similar names.
    """
    known = option_names()
    for name, domain in space.items():
        if name in DECIDED:
            raise ValueError(f"space: {name} cannot be varied: {DECIDED[name]}.")
        if name not in known:
            raise ValueError(f"space: there is no option {name}. {_nearest(name, known)}")
        whole = PARTS.get(name, "")
        present = [value for value in space[whole].extremes() if value] if whole in space else []
        for value in domain.extremes():
            try:
                with_values(base, {whole: present[0], name: value} if present else {name: value})
            except ValueError as error:
                raise ValueError(f"space: {error}") from error


def with_values(base: TrainConfig, values: Mapping[str, Value]) -> TrainConfig:
    """Return a config with other values of some options.

    Where a value takes a part out, the options of that part have their defaults: with and without
    it can be compared.

    Raises:
        ValueError: If a value or a combination is invalid.
    """
    fields: dict[str, Any] = base.model_dump()
    standard: dict[str, Any] = TrainConfig.model_construct().model_dump()
    absent = [part for part, whole in PARTS.items() if not values.get(whole, True)]
    for name in (*values, *absent):
        *groups, option = name.split(".")
        place, default = fields, standard
        for group in groups:
            place, default = place[group], default[group]
        place[option] = default[option] if name in absent else values[name]
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
