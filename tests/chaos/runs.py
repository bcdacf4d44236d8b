"""Trainings in processes of their own, from options instead of flags."""

from pathlib import Path

import yaml

from pipeline.common.failpoints import VARIABLE
from pipeline.config import TrainConfig
from tests.chaos.commands import Command


def start(run: TrainConfig, folder: Path, fault: str = "", **environment: str) -> Command:
    """Start a training.

    Args:
        run: Its options.
        folder: For the preset that holds them.
        fault: That is to strike it.
        environment: More of it.
    """
    preset = folder / "preset.yaml"
    preset.write_text(yaml.safe_dump(run.model_dump(mode="json")))
    return Command("train_coco", f"--preset={preset}", **{VARIABLE: fault} | environment)


def then(command: Command, pattern: str, after: float = 0.0, seconds: float = 400) -> float:
    """Wait for a line that holds a pattern and comes after a moment; return when it came."""
    command.wait_for(lambda: command.when(pattern, after) is not None, seconds)
    found = command.when(pattern, after)
    assert found is not None
    return found
