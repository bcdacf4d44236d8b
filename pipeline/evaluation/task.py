"""Find and check what is to be evaluated, before anything is generated."""

from dataclasses import dataclass
from typing import Any

from pipeline.data.dataset import PreparedDataset
from pipeline.data.manifest import MANIFEST
from pipeline.evaluation.config import EvaluateConfig
from pipeline.evaluation.features import digest
from pipeline.evaluation.networks import (
    ExtractorRef,
    ModelRef,
    PairRef,
    find_model,
    find_pair,
)
from pipeline.evaluation.protocols import Protocol
from pipeline.evaluation.reference_images import RealImages, column_digest, find_reference
from pipeline.storage.folder import Folder, absolute
from pipeline.tracking.tracker import Tracker, address
from ratgan.metrics.features import Extractor


@dataclass(frozen=True)
class Task:
    """A checked evaluation.

    Attributes:
        config: Its options.
        protocol: With all that is known now.
        model: What is evaluated.
        dataset: Whose captions are drawn.
        real: What is compared with.
        extractor: Where it is.
        features: Numbers D it gives for an image.
        published: Whether it has the weights its name is known by.
        logits: Whether it tells kinds of images apart.
        pair: Where it is, if there is one.
        pair_sha256: Of its weights.
        output: Folder of the report.
        identity: What decides all numbers.
    """

    config: EvaluateConfig
    protocol: Protocol
    model: ModelRef
    dataset: PreparedDataset
    real: RealImages
    extractor: ExtractorRef
    features: int
    published: bool
    logits: bool
    pair: PairRef | None
    pair_sha256: str
    output: Folder
    identity: dict[str, Any]


def check(config: EvaluateConfig) -> Task:
    """Refuse what could not be measured, before anything is drawn.

    Raises:
        ValueError: If model, data, weights and protocol do not go together.
        FileNotFoundError: If one of them is not there.
    """
    wanted = config.wanted()
    model = find_model(
        config.model,
        checkpoint=config.checkpoint,
        weights=wanted.weights,
        encoder_path=config.encoder_path,
    )
    if model.run is not None and config.record and not Tracker(Folder(model.run)).is_new():
        # Otherwise it would be refused at the end, when everything is measured.
        address(
            Folder(model.run),
            config.tracking_uri,
            "--tracking-uri",
            ", or measure without telling any (--no-record)",
        )
    dataset = _dataset(config, wanted, model)
    image_size = model.loaded().generator.arguments["image_size"]
    protocol, real, place, extractor = measured_by(config, dataset, image_size)
    pair, pair_sha256 = None, ""
    if config.pair is not None:
        pair = find_pair(config.pair_kind, config.pair, config.pair_inception_weights)
        pair_sha256 = pair.loaded().sha256
    identity = {
        "protocol": protocol.model_dump(mode="json", exclude={"quirks"}),
        "model": model.sha256,
        "pair": pair_sha256,
        "batch_size": config.batch_size,
        "chunk_images": config.chunk_images,
    }
    return Task(
        config=config,
        protocol=protocol,
        model=model,
        dataset=dataset,
        real=real,
        extractor=place,
        features=extractor.dim,
        published=extractor.published,
        logits=extractor.has_logits,
        pair=pair,
        pair_sha256=pair_sha256,
        output=_output(config, protocol, model, identity),
        identity=identity,
    )


def measured_by(
    config: EvaluateConfig, dataset: PreparedDataset, image_size: int
) -> tuple[Protocol, RealImages, ExtractorRef, Extractor]:
    """Find what a protocol needs, whatever the model.

    Args:
        config: Names protocol and files.
        dataset: Whose captions are drawn.
        image_size: Of the generated images in pixels.

    Returns:
        The protocol with all that is known now, the real images, and the extractor: where it is,
        and loaded.

    Raises:
        ValueError: If data, weights and protocol do not go together.
        FileNotFoundError: If one of them is not there.
    """
    wanted = config.wanted()
    weights = None if config.weights is None else absolute(config.weights, "weights")
    place = ExtractorRef(wanted.extractor, weights, wanted.resize, config.weights_sha256)
    extractor = place.loaded()
    real = find_reference(
        wanted,
        dataset,
        image_size=image_size,
        batch_size=config.batch_size,
        folder=config.reference_images,
        statistics=config.reference_statistics,
    )
    protocol = wanted.resolved(
        dataset.manifest.rows(wanted.captions_of),
        weights_sha256=extractor.sha256,
        reference_digest=real.digest,
        reference_count=real.count,
        captions_digest=column_digest(dataset, (wanted.captions_of,), "captions"),
        image_size=image_size,
    )
    _refuse_too_few(config, protocol, real, extractor)
    return protocol, real, place, extractor


def _dataset(config: EvaluateConfig, wanted: Protocol, model: ModelRef) -> PreparedDataset:
    """Open the dataset whose captions are drawn: the named one, or that of the training."""
    data = config.data or model.data
    if data is None:
        raise ValueError(
            f"{config.model} does not say what it was trained on: name a prepared dataset, whose "
            "captions are drawn, with --data."
        )
    if config.data is None and not Folder(data).exists(MANIFEST):
        raise ValueError(
            f"{config.model} was trained on {data}, where no prepared dataset is now: name the "
            "place that it was moved to with --data."
        )
    dataset = PreparedDataset(absolute(data, "data"))
    dataset.verify()
    if not dataset.manifest.rows(wanted.captions_of):
        raise ValueError(
            f"{dataset.folder} has no {wanted.captions_of} images, whose captions are drawn."
        )
    return dataset


def _refuse_too_few(
    config: EvaluateConfig, protocol: Protocol, real: RealImages, extractor: Extractor
) -> None:
    """Refuse sets that span fewer directions than the features have."""
    if (found := real.statistics) is not None and found.dim != extractor.dim:
        raise ValueError(
            f"{config.reference_statistics} holds statistics of {found.dim} features, and "
            f"{protocol.extractor} gives {extractor.dim}: it is of another extractor."
        )
    counts = {"generated": (protocol.count or 0, "--count; 10,000 are usual")}
    if real.images is not None:
        counts["real"] = (real.count, "--reference train or all takes more of the dataset")
    problems = []
    for kind, (count, remedy) in counts.items():
        if count < 2:
            problems.append(f"{count} {kind} images cannot be measured; at least 2 are needed.")
        elif count <= extractor.dim and not config.few_images:
            problems.append(
                f"{count:,} {kind} images are too few for {protocol.extractor}, which gives "
                f"{extractor.dim:,} numbers for each: {count:,} images differ in {count - 1:,} "
                "directions at most (the rank of their covariance), in all others their spread "
                "counts as 0, and the distance says more about their number than about them. "
                f"Use {extractor.dim + 1:,} or more ({remedy}), or --few-images to measure all "
                "the same."
            )
    if problems:
        raise ValueError("\n".join(problems))


def _output(
    config: EvaluateConfig, protocol: Protocol, model: ModelRef, identity: dict[str, Any]
) -> Folder:
    if config.output is not None:
        return Folder(absolute(config.output, "output"))
    step = f"-step-{model.step:08d}" if model.step else ""
    name = f"{protocol.name}{step}-{digest(identity)[:8]}"
    if model.run is not None:
        return Folder(model.run).closed() / "evaluation" / name
    return Folder(absolute(f"outputs/evaluation/{model.name}-{name}", "output"))
