"""Find the networks of an evaluation: generator, feature extractor, pair of encoders."""

import contextlib
import json
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch

from pipeline.checkpoint.find_model import find_place
from pipeline.checkpoint.load_model import load_saved
from pipeline.checkpoint.store import FILES, STATE, newest_checkpoint, read_tensors
from pipeline.data.manifest import read_manifest
from pipeline.storage.folder import Folder, absolute
from pipeline.storage.local_copy import local_copy
from pipeline.tracking.run_record import RUN_RECORD
from ratgan.metrics.extractors import load_extractor
from ratgan.metrics.features import Extractor
from ratgan.metrics.pairs import IMAGE_FILE, TEXT_FILE, Pair, load_pair
from ratgan.options import Resize
from ratgan.text_to_image import TextToImage
from ratgan.weights.saved_model import MODEL_JSON
from ratgan.weights.strict import load_strictly

Weights = Literal["average", "training"]
TRAINING = "generator.safetensors"  # in a checkpoint
ENDINGS = (".safetensors", ".json", ".txt", ".model")  # of what transformers saves; no pickle


@dataclass(frozen=True)
class ModelRef:
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
        around = self.run or self.checkpoint
        root = Folder(around).path if around else None
        model = load_saved(Folder(self.location, root), self.encoder_path)
        if self.weights == "training" and self.checkpoint is not None:
            folder = Folder(self.checkpoint)
            tensors = read_tensors(folder, TRAINING)
            load_strictly(model.generator, tensors, f"{folder}/{TRAINING}")
        return model


def find_model(
    location: str, *, checkpoint: str, weights: Weights, encoder_path: str | None = None
) -> ModelRef:
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
    run, inside, model = find_place(Folder(absolute(location, "model")), checkpoint)
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
    return ModelRef(
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


def _run_around(folder: Folder) -> Folder | None:
    """Return the run that a model or a checkpoint lies in, if it does."""
    for levels in (1, 2):
        above = Folder(folder.location.rsplit("/", levels)[0])
        if above.exists(RUN_RECORD):
            return above.closed()
    return None


def _data_of(run: Folder | None, checkpoint: Folder | None) -> str | None:
    """Return the dataset a run was trained on, as its checkpoint says.

    An address is only taken where no other host is asked for it than for the run, or S3's: a
    stranger's run may name any that this machine can reach.
    """
    if checkpoint is None and run is not None:
        found = newest_checkpoint(run / "checkpoints")
        checkpoint = None if found is None else found[0]
    if checkpoint is None:
        return None
    try:
        state = checkpoint.read_json(STATE)
        path, output = str(state["config"]["data"]["path"]), state["config"].get("output")
        digest = state.get("dataset")
    except (FileNotFoundError, KeyError, TypeError, json.JSONDecodeError):
        return None
    if run is not None and run.local_path and output and "://" not in f"{path}{output}":
        return _moved_along(path, output, run.local_path, digest)
    scheme, address, _ = path.rpartition("://")
    known = ("s3", "s3a", checkpoint.location.rpartition("://")[0])
    return path if not address or scheme in known else None


def _moved_along(path: str, output: str, run: str, digest: str) -> str:
    """Return where a dataset is now: it may have been moved or copied together with the run.

    Args:
        path: Where it was.
        output: Where the folder of the run's folder was.
        run: Where the run is.
        digest: Of the dataset.
    """
    near = Folder(os.path.normpath(os.path.join(run, "..", os.path.relpath(path, output))))
    with contextlib.suppress(ValueError, OSError):
        if read_manifest(near)[1] == digest:
            return near.location
    return path


@dataclass(frozen=True)
class ExtractorRef:
    """An extractor of features; crosses processes freely.

    Attributes:
        name: Key of `EXTRACTORS`.
        location: Path or address of its weights, as `absolute` gives it.
        rule: How images are resized.
        sha256: That its weights must have, or the beginning of it.
    """

    name: str
    location: str | None
    rule: Resize
    sha256: str | None = None

    def loaded(self, device: str | torch.device = "cpu") -> Extractor:
        """Load it; raises as `load_extractor` does."""
        with _copy_of(self.location) as path:
            return load_extractor(
                self.name, path, rule=self.rule, sha256=self.sha256, device=device
            )


@dataclass(frozen=True)
class PairRef:
    """A pair of encoders; crosses processes freely.

    Attributes:
        name: Key of `PAIRS`.
        location: Path or address of its folder, as `absolute` gives it.
        inception: Path or address of the weights its image side stands on, if it needs them.
    """

    name: str
    location: str
    inception: str | None = None

    def loaded(self, device: str | torch.device = "cpu") -> Pair:
        """Load it; raises as `load_pair` does."""
        with _copy_of(self.location) as folder, _copy_of(self.inception) as inception:
            return load_pair(self.name, str(folder), inception_weights=inception, device=device)


def find_pair(name: str, location: str, inception: str | None) -> PairRef:
    """Find a pair where a user says it is.

    Args:
        name: Key of `PAIRS`.
        location: ``damsm``: the run of jobs/pretrain_damsm.py, of which the newest checkpoint is
            taken, or any folder with both files. ``clip``: a folder.
        inception: Weights its image side stands on.

    Raises:
        FileNotFoundError: If there is none.
    """
    folder = Folder(absolute(location, "pair"))
    weights = None if inception is None else absolute(inception, "pair_inception_weights")
    if name == "damsm" and not folder.exists(IMAGE_FILE):
        from pipeline.checkpoint.store import newest_checkpoint

        found = newest_checkpoint(folder / "checkpoints")
        if found is None or not found[0].exists(IMAGE_FILE):
            raise FileNotFoundError(
                f"pair={location} holds no {TEXT_FILE} with its {IMAGE_FILE}: name the run of "
                "jobs/pretrain_damsm.py, outputs/NAME, or one of its checkpoints."
            )
        folder = found[0]
    return PairRef(name, folder.location, weights)


def _copy_of(location: str | None) -> AbstractContextManager[str | None]:
    return nullcontext() if location is None else local_copy(location, ENDINGS)
