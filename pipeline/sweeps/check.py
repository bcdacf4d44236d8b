"""What can be known of a study before it starts."""

import difflib
import re

from pipeline.config import TrainConfig
from pipeline.evaluation.quick_evaluation import measured_names
from pipeline.sweeps.config import StudyConfig, option_names
from pipeline.training.train import check_training


def check_study(config: StudyConfig) -> TrainConfig:
    """Check a sweep or an ablation as each of its trainings is, and its metric.

    Returns:
        The run that is varied, with absolute places.

    Raises:
        ValueError: If dataset and options do not fit together, or no trial measures the metric.
        OSError: If nothing can be written to the output folder, or weights are not installed.
    """
    try:
        start = check_training(config.run())
    except ValueError as error:
        error.args = (_flags_of_a_study(str(error)),)
        raise
    train = start.config
    if not isinstance(train, TrainConfig):
        raise TypeError(f"a study varies runs of TrainConfig, not of {type(train).__name__}.")
    varied = {name.partition(".")[0] for name in config.domains()}
    names = measured_names(start.dataset, train.model.image_size, train.evaluate_extractor)
    # The names of an evaluation beside the training depend on its protocol.
    known = train.evaluate_beside.protocol or varied & {"evaluate_extractor", "evaluate_beside"}
    if config.metric.startswith("eval/") and config.metric not in names and not known:
        near = difflib.get_close_matches(config.metric, names, n=1, cutoff=0.6)
        raise ValueError(
            f"metric={config.metric} is not measured in trainings on {start.dataset.folder}: "
            f"{', '.join(names)}. {f'Perhaps you meant {near[0]}. ' if near else ''}Name another "
            "with --metric, or --train.evaluate-beside.protocol, which measures more."
        )
    return train


def _flags_of_a_study(message: str) -> str:
    """Name the flags of a training as those of a study: --data.no-flip is --train.data.no-flip."""
    known = {"." + name.replace("_", "-") for name in option_names()}

    def renamed(flag: re.Match[str]) -> str:
        plain = f".{flag[1]}".replace(".no-", ".")
        return f"--train.{flag[1]}" if plain in known else flag[0]

    return re.sub(r"--([a-z][a-z0-9.-]*[a-z0-9])", renamed, message)
