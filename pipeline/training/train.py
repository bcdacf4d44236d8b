"""The driver of a GAN training: check, start or resume, train, export the model."""

import json
from typing import Any

from pipeline.common.commands import command, job_command
from pipeline.common.console import print_line
from pipeline.config import TrainConfig
from pipeline.data.dataset import PreparedDataset
from pipeline.distributed.elastic import train_with_restarts
from pipeline.distributed.graceful_stop import StopRequests
from pipeline.evaluation.quick_evaluation import refuse_unmeasurable
from pipeline.storage.folder import Folder, absolute
from pipeline.tracking.run_description import Purpose
from pipeline.tracking.tracker import PartOf, Tracker
from pipeline.training.beside import (
    BesideEvaluation,
    refuse_unmeasurable_beside,
    without_if_crowded,
)
from pipeline.training.gan_worker import work
from pipeline.training.launch import Launch, check, is_finished, running_job, with_places
from pipeline.training.model_card import model_card
from pipeline.training.start_from import begin, find_start
from ratgan import efficientnet
from ratgan.architectures import find_architecture
from ratgan.weights.saved_model import MODEL_JSON


def check_training(config: TrainConfig) -> Launch:
    """Check what can be known before a training starts.

    Raises:
        ValueError: If dataset and options do not fit together.
        OSError: If nothing can be written to the output folder, or weights are not installed.
    """
    start = check(
        _with_places(config),
        image_size=config.model.image_size,
        option="model.image_size",
        batch=config.optim.batch_size,
    )
    refuse_unmeasurable(start.dataset, config.model.image_size, config.best_by)
    refuse_unmeasurable_beside(start.dataset, config)
    if config.profiled().stop > start.total:
        raise ValueError(
            f"profile_steps={config.profile_steps} goes beyond the last step of the run, "
            f"{start.total:,}: name steps before it, for example {start.total - 1}:{start.total}."
        )
    if config.evaluate_extractor == efficientnet.NAME:
        efficientnet.find_efficientnet()
    return start


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
    config = _with_places(without_if_crowded(config))
    start = check_training(config)
    if is_finished(start, f"Its model: {start.run}/model"):
        return start.run
    weights = find_start(config, start)

    size, name = config.model.image_size, _registered_name(config, start.dataset)
    architecture = find_architecture(config.model.architecture)
    encoder, options, serving = start.dataset.manifest.encoder.location, list[str](), ""
    if encoder is not None:
        options = ["--encoder-path", encoder]
        named = command(json.dumps({"encoder_path": encoder}))
        serving = f"MLFLOW_PYFUNC_INFERENCE_CONFIG={named} "
    draw = job_command("generate", "--model", f"{start.run}/model", *options, "a caption")
    version = f"models:/{name}@best"
    serve = command("mlflow", "models", "serve", "-m", version, "--env-manager", "local")
    purpose = Purpose(
        f"{architecture.title}, text to image at {size} × {size} px",
        (
            f"Model: `{start.run}/model`; draw with `{draw}`",
            f"In MLflow it becomes a version of the registered model `{name}`, whose alias `best` "
            "names the best of all versions: "
            f"`{serving}{serve}`",
        ),
    )
    with (
        running_job(start, purpose, stop=stop, part_of=part_of) as job,
        BesideEvaluation(config, start.run, start.total, job) as beside,
    ):
        if weights is not None:
            begin(weights, config, start, job)
            del weights  # they take memory, and are in a checkpoint now
        train_with_restarts(work, job.fields, config, run=start.run, crew=job.crew, stop=job.stop)
        checkpoint = job.last_checkpoint()
        _export(config, start, checkpoint, job.state, job.tracker)
        beside.finish()
    print_line(f"finished. model {start.run}/model")
    if options:
        print_line(f"the model does not contain its text encoder: draw with {command(*options)}")
    return start.run


def _with_places(config: TrainConfig) -> TrainConfig:
    place = config.start_from and absolute(config.start_from, "start_from")
    return with_places(config).model_copy(update={"start_from": place})


def _registered_name(config: TrainConfig, dataset: PreparedDataset) -> str:
    """Name the registered model: what is comparable at all comes under one name."""
    kind = config.model.architecture.replace("-", "")
    source, size = dataset.manifest.source["name"], config.model.image_size
    return config.tracking.registered_model or f"{kind}-{source}-{size}"


def _export(
    config: TrainConfig, start: Launch, checkpoint: Folder, state: dict[str, Any], tracker: Tracker
) -> None:
    """Put the last checkpoint's model into the run's folder and into MLflow, with its card."""
    run, dataset = start.run, start.dataset
    captions = [example.caption for example in dataset.spread("train", 4, config.seed)]
    model = checkpoint / "model"
    # The file that names the hashes of others comes last.
    names = sorted(model.names(), key=lambda name: (name == MODEL_JSON, name))
    card = model_card(config, state, dataset.manifest, captions)
    files = {"README.md": card.encode()} | {name: model.read(name) for name in names}
    for name, content in files.items():
        (run / "model").write(name, content)
    size, architecture = config.model.image_size, find_architecture(config.model.architecture)
    tracker.model(
        files,
        captions,
        dataset.manifest.encoder.name,
        step=state["step"],
        name=_registered_name(config, dataset),
        description=f"{architecture.title} trained on {dataset.manifest.source['name']} at "
        f"{size} × {size} px: captions in, images out. The alias `best` names the best "
        "version, the tag `best` says why it is.",
    )
