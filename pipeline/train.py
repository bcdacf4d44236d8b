"""A training run, from the driver's side: check, start or resume, train, hand over the model."""

from typing import Any

from pipeline.config import TrainConfig
from pipeline.dataset import PreparedDataset
from pipeline.launch import Launch, carry_out, check, is_finished, with_places
from pipeline.model_card import model_card
from pipeline.progress import say
from pipeline.stopping import StopRequests
from pipeline.storage import Folder
from pipeline.tracking import PartOf, Tracker
from pipeline.worker import work
from ratgan.checkpoint import MODEL_JSON


def train(
    config: TrainConfig, *, stop: StopRequests | None = None, part_of: PartOf | None = None
) -> Folder:
    """Train as the config says; a run that was cut short goes on from its last checkpoint.

    Args:
        config: Of the run.
        stop: By which a stop may be asked for, beside the signal.
        part_of: What the run is part of.

    Returns:
        Folder of the run; the model is in its `model`.

    Raises:
        StoppedError: If a stop was asked for; the last step is in a checkpoint then.
        ValueError: If dataset, run and options do not fit together; nothing was started then.
    """
    config = with_places(config)
    start = checked(config)
    if is_finished(start, f"Its model: {start.run}/model"):
        return start.run

    def hand_over(checkpoint: Folder, state: dict[str, Any], tracker: Tracker) -> None:
        _hand_over(config, start.run, start.dataset, checkpoint, state, tracker)

    carry_out(start, work, hand_over, stop=stop, part_of=part_of)
    say(f"finished. model {start.run}/model")
    return start.run


def checked(config: TrainConfig) -> Launch:
    """Refuse what could not be trained, before anything starts.

    Raises:
        ValueError: If dataset and options do not fit together.
        OSError: If nothing can be written to the output folder.
    """
    config = with_places(config)
    return check(
        config,
        image_size=config.model.image_size,
        option="model.image_size",
        batch=config.optim.batch_size,
    )


def _hand_over(
    config: TrainConfig,
    run: Folder,
    dataset: PreparedDataset,
    checkpoint: Folder,
    state: dict[str, Any],
    tracker: Tracker,
) -> None:
    """Put the last checkpoint's model into the run's folder and into MLflow, with its card."""
    captions = [example.caption for example in dataset.examples("train", 4)]
    model = checkpoint / "model"
    # The file that names the hashes of others comes last.
    names = sorted(model.names(), key=lambda name: (name == MODEL_JSON, name))
    card = model_card(config, state, dataset.manifest, captions)
    files = {"README.md": card.encode()} | {name: model.read(name) for name in names}
    for name, content in files.items():
        (run / "model").write(name, content)
    tracker.model(files, captions, dataset.manifest.encoder.name)
