"""Base class of all options: frozen, and unknown keys are refused."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError


class Settings(BaseModel):
    """A frozen set of options that refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ValueError(explain(error)) from error


def explain(error: ValidationError) -> str:
    """Say what a config refuses: option, value, rule; one line each."""
    lines = []
    for problem in error.errors(include_url=False):
        name = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            lines.append(f"{name}: there is no such option")
        elif name and isinstance(problem["input"], dict):  # of options within: each line names one
            lines += [f"{name}.{line}" for line in message.splitlines()]
        else:
            lines.append(f"{name}={problem['input']!r}: {message}" if name else message)
    return "\n".join(lines)
