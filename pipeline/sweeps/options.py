"""Options of a training run by dotted name: which may be varied, and a config with other values."""

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline.config import TrainConfig
from pipeline.settings import explain
from pipeline.sweeps.space import Space, Value

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
