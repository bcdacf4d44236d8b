"""Options of an evaluation, and of a comparison of some."""

from typing import Annotated, Literal, Self

import tyro
from pydantic import Field, model_validator

from pipeline.common.settings import Settings
from pipeline.config import PositiveInt, ProtocolName
from pipeline.evaluation.protocols import (
    PROTOCOLS,
    ExtractorName,
    Protocol,
    Reference,
)

CACHE = "evaluation-cache"  # in the folder of runs: what evaluations use again


class EvaluateConfig(Settings):
    """Measure how good a model is, by a named protocol. The same command goes on after a stop.

    python jobs/evaluate.py --model outputs/quickstart
    python jobs/evaluate.py --model outputs/coco-256 --protocol clean --weights pt_inception-….pth
    """

    model: str
    """Run (outputs/NAME), checkpoint or saved model: a folder or bucket address."""
    protocol: ProtocolName = "builtin"
    """What to measure by; docs/evaluation.md says what each is. builtin needs no files."""
    data: str | None = None
    """Prepared dataset: folder or bucket address. Default: the one the run was trained on."""
    weights: str | None = None
    """Weights of the protocol's extractor: a file, or for dinov2 and clip a folder. Never
    downloaded."""
    weights_sha256: Annotated[str, Field(pattern="^[0-9a-fA-F]{8,64}$")] | None = None
    """Sha256 that these weights must have, or its first 8 or more digits."""
    pair: str | None = None
    """Pair of encoders for R-precision, retrieval and the CLIP score: a run of
    jobs/pretrain_damsm.py, or the folder of a CLIP."""
    pair_kind: Literal["damsm", "clip"] = "damsm"
    """What that is."""
    pair_inception_weights: str | None = None
    """Weights of torchvision's Inception-v3, for a DAMSM that was trained on it."""
    reference_images: str | None = None
    """Folder of original images, for protocols that compare with one."""
    reference_statistics: str | None = None
    """File of published statistics (.npz), for protocols that compare with one."""
    checkpoint: str = "newest"
    """Of a run: newest, best, or a step."""
    encoder_path: str | None = None
    """Text encoder, if the model does not bring it along: a place that only the model names is not
    opened."""
    output: str | None = None
    """Folder or bucket address for the report. Default: in the run's evaluation/, else in
    outputs/evaluation."""
    cache: str | None = None
    """Folder or bucket address where features of real images are kept for the next evaluation.
    Default: evaluation-cache beside the run's folder, or else beside the report's."""
    actors: Annotated[int, Field(ge=0)] | None = None
    """Processes at work; 0: this one alone, without Ray. Default: one for each GPU, without GPUs
    one for each CPU."""
    batch_size: PositiveInt = 32
    """Images drawn and looked at at once."""
    chunk_images: PositiveInt = 256
    """Images of a piece of work, which is what a stop can cost."""
    few_images: bool = False
    """Measure with fewer images than the extractor has features, too."""
    keep_features: bool = False
    """Keep the features of the generated images."""
    overwrite: bool = False
    """Delete an evaluation that is in the output folder already."""
    record: bool = True
    """Add the numbers to the run's record in MLflow, if it has one."""
    tracking_uri: str | None = None
    """MLflow server or store. Default: the run's own, if that is MLFLOW_TRACKING_URI or the file
    beside the run; any other must be named here."""

    count: PositiveInt | None = None
    """In place of the protocol's: images to draw."""
    passes: PositiveInt | None = None
    """In place of the protocol's: passes over the captions."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """In place of the protocol's."""
    diversity_captions: PositiveInt | None = None
    """In place of the protocol's: captions of which several images are drawn."""
    diversity_images: Annotated[int, Field(ge=2)] | None = None
    """In place of the protocol's: images of each of them."""
    extractor: ExtractorName | None = None
    """In place of the protocol's, with its usual way of resizing."""
    reference: Reference | None = None
    """In place of the protocol's."""
    generator_weights: Literal["average", "training"] | None = None
    """In place of the protocol's."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.count is not None and self.passes is not None:
            raise ValueError("count and passes both say how many images are drawn: give one.")
        if self.pair is None and self.pair_inception_weights is not None:
            raise ValueError("pair_inception_weights has no use without pair.")
        return self

    def wanted(self) -> Protocol:
        """Return the protocol with what is given in its place."""
        from ratgan.metrics.extractors import EXTRACTORS  # needs torch; --help does not

        changes = {
            "count": self.count,
            "passes": self.passes,
            "seed": self.seed,
            "diversity_captions": self.diversity_captions,
            "diversity_images": self.diversity_images,
            "extractor": self.extractor,
            "resize": EXTRACTORS[self.extractor].resize if self.extractor else None,
            "reference": self.reference,
            "weights": self.generator_weights,
        }
        given = {name: value for name, value in changes.items() if value is not None}
        return PROTOCOLS[self.protocol].changed(**given)


class CompareConfig(Settings):
    """Put the numbers of evaluations side by side; refused if their protocols are not the same.

    python jobs/compare.py outputs/a/evaluation/… outputs/b/evaluation/…
    """

    reports: tyro.conf.Positional[Annotated[tuple[str, ...], Field(min_length=2)]]
    """Folders of evaluations, or their report.json."""
