"""Which generator is evaluated: of a run, a checkpoint or a saved model, local or in a bucket."""

import json
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.checkpointing import FILES, MARKER, PREFIX, STATE, newest_checkpoint, read_tensors
from pipeline.generate import load_from
from pipeline.run_record import RUN_RECORD
from pipeline.storage import Folder, absolute
from ratgan.checkpoint import MODEL_JSON
from ratgan.strict import load_strictly
from ratgan.text_to_image import TextToImage

Weights = Literal["average", "training"]
TRAINING = "generator.safetensors"  # in a checkpoint


@dataclass(frozen=True)
class ModelPlace:
    """A generator; crosses processes freely.

    Attributes:
        location: Folder of the saved model.
        checkpoint: Folder of the checkpoint it is in, if it is in one.
        run: Folder of the run it is of, if that is known.
        step: Of the run; 0 if that is not known.
        weights: Moving average, or those in training.
        sha256: Of these weights.
        data: Prepared dataset it was trained on, if that is known.
        encoder_path: Where its text encoder is, if it does not come along.
    """

    location: str
    checkpoint: str | None
    run: str | None
    step: int
    weights: Weights
    sha256: str
    data: str | None
    encoder_path: str | None = None

    @property
    def name(self) -> str:
        """Name for people."""
        place = self.run or self.location.removesuffix("/model")
        return place.rstrip("/").rpartition("/")[2]

    def loaded(self) -> TextToImage:
        """Load the model, with the weights that are meant."""
        model = load_from(self.location, self.encoder_path)
        if self.weights == "training" and self.checkpoint is not None:
            folder = Folder(self.checkpoint)
            tensors = read_tensors(folder, TRAINING)
            load_strictly(model.generator, tensors, f"{folder}/{TRAINING}")
        return model


def find_model(
    location: str, *, checkpoint: str, weights: Weights, encoder_path: str | None = None
) -> ModelPlace:
    """Find the generator a user means.

    Args:
        location: Folder of a run, of one of its checkpoints, or of a saved model.
        checkpoint: Of a run: ``newest``, ``best``, or a step.
        weights: Moving average, or those in training.
        encoder_path: Where its text encoder is, if it does not come along.

    Raises:
        FileNotFoundError: If there is no model.
        ValueError: If it does not have what is asked for.
    """
    folder = Folder(absolute(location, "model"))
    run = folder if folder.exists("checkpoints") else None
    inside: Folder | None = None
    if run is not None:
        inside = _checkpoint_of(run, checkpoint)
    elif folder.exists(f"model/{MODEL_JSON}") and folder.exists(STATE):
        inside = folder
    model = inside / "model" if inside is not None else folder
    if inside is None and folder.exists(f"model/{MODEL_JSON}"):
        model = folder / "model"
    if not model.exists(MODEL_JSON):
        raise FileNotFoundError(
            f"model={location} holds no {MODEL_JSON}: it is neither a run (outputs/NAME) with a "
            "complete checkpoint, nor a checkpoint, nor a saved model (outputs/NAME/model)."
        )
    record = model.read_json(MODEL_JSON)
    run = run or _run_around(inside or model)
    sha256 = record["tensors_sha256"]
    if weights == "training" and inside is not None:
        sha256 = inside.read_json(FILES)[TRAINING]
    elif weights != _weights_of(record):
        raise ValueError(
            f"{model} holds "
            + (
                "the weights of others as they were in training, and no average of them: "
                "--generator-weights average is not there. Use --generator-weights training."
                if weights == "average"
                else "the average of the weights. Those in training are in the checkpoints of a "
                "run: name outputs/NAME or outputs/NAME/checkpoints/step-…, or use "
                "--generator-weights average."
            )
        )
    return ModelPlace(
        location=model.location,
        checkpoint=None if inside is None else inside.location,
        run=None if run is None else run.location,
        step=int(record["origin"].get("step", 0)),
        weights=weights,
        sha256=sha256,
        data=_data_of(run, inside),
        encoder_path=encoder_path,
    )


def _weights_of(record: dict[str, Any]) -> Weights:
    """Tell what a saved model holds: ours the average, imported ones what they were given."""
    return "training" if "imported_from" in record["origin"] else "average"


def _checkpoint_of(run: Folder, wanted: str) -> Folder | None:
    """Return a checkpoint of a run; None if it has a saved model only."""
    checkpoints = run / "checkpoints"
    if wanted.isdigit():
        folder = checkpoints / f"{PREFIX}{int(wanted):08d}"
        if not folder.exists(MARKER):
            kept = ", ".join(name for name in checkpoints.names() if name.startswith(PREFIX))
            raise ValueError(f"checkpoint={wanted}: {run} holds {kept or 'none'}.")
        return folder
    if wanted not in ("newest", "best"):
        raise ValueError(f"checkpoint={wanted!r} must be newest, best, or a step such as 4000.")
    found = newest_checkpoint(checkpoints)
    if found is None:
        return None
    if wanted == "newest":
        return found[0]
    best = found[1].get("best")
    if not best:
        raise ValueError(
            f"checkpoint=best: {run} was not measured while it trained (--evaluate-every), so none "
            "of its checkpoints is known to be the best. Use --checkpoint newest."
        )
    return checkpoints / f"{PREFIX}{best['step']:08d}"


def _run_around(folder: Folder) -> Folder | None:
    """Return the run that a model or a checkpoint lies in, if it does."""
    for levels in (1, 2):
        above = Folder(folder.location.rsplit("/", levels)[0])
        if above.exists(RUN_RECORD):
            return above
    return None


def _data_of(run: Folder | None, checkpoint: Folder | None) -> str | None:
    """Return the dataset a run was trained on, as its checkpoint says."""
    if checkpoint is None and run is not None:
        found = newest_checkpoint(run / "checkpoints")
        checkpoint = None if found is None else found[0]
    if checkpoint is None:
        return None
    try:
        path: str = checkpoint.read_json(STATE)["config"]["data"]["path"]
    except (FileNotFoundError, KeyError, TypeError, json.JSONDecodeError):
        return None
    return path
