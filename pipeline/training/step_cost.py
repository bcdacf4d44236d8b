"""Measure what a training step costs on this machine: memory and time, on synthetic data."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.config import Precision, TrainConfig
from pipeline.data.loader import Batch
from pipeline.training.damsm.config import PretrainConfig
from pipeline.training.damsm.worker import build as build_pair
from pipeline.training.damsm.worker import do_step as do_pair_step
from pipeline.training.device import configure_precision
from pipeline.training.gan_step import build as build_gan
from pipeline.training.gan_step import do_step as do_gan_step
from pipeline.training.gan_step import networks
from ratgan.ops.op_counter import Counter, NoUpdate
from ratgan.step import Gan
from ratgan.text.image_branch import untrained_inception
from ratgan.text.transform import SentenceTransform
from ratgan.text.vocabulary import Vocabulary

FIRST = 2  # images of the first step; fewer have no mismatched captions
TIMED = 3  # steps on a GPU, after one that warms up
SPARE = 0.8  # share of the free memory of a machine that a trial may take
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Trial:
    """A training step that can be tried.

    Attributes:
        parameters: Numbers of each network that is trained.
        held_bytes: Of weights, averages and optimizers: there at every moment.
        step_bytes: Of a step of so many images: what is alive at once beside that.
        step: Does one on so many made-up images.
    """

    parameters: dict[str, int]
    held_bytes: int
    step_bytes: Callable[[int], int]
    step: Callable[[int], None]


@dataclass(frozen=True)
class Measured:
    """A step that was timed.

    Attributes:
        images: In it.
        seconds: It took.
        peak_bytes: On a GPU, the most memory that was taken at once.
    """

    images: int
    seconds: float
    peak_bytes: int | None


def gan_trial(
    config: TrainConfig,
    raw_dim: int,
    transform: SentenceTransform,
    device: torch.device,
    *,
    tried_in: Precision | None = None,
) -> Trial:
    """Prepare to try the step of a GAN.

    Args:
        config: Of the run.
        raw_dim: Size of a raw sentence vector.
        transform: Of those.
        device: To try on.
        tried_in: Precision of the steps that are done; that of the run, if not given.
    """
    configure_precision(
        tried_in or config.precision,
        tf32=config.tf32,
        deterministic=config.deterministic,
        device=device,
    )

    def of(images: int, how: Precision = config.precision) -> TrainConfig:
        parts = config.optim.accumulate if images >= config.optim.batch_size else 1
        changes = {"batch_size": images, "accumulate": parts}
        optim = config.optim.model_copy(update=changes)
        return config.model_copy(update={"optim": optim, "precision": how})

    def count(images: int) -> int:
        with _Shapes(), warnings.catch_warnings():
            # torch looks whether a parameter has content before it copies it.
            warnings.filterwarnings("ignore", message="Accessing the data pointer")
            gan = Gan.create(*networks(config, transform.dim))
            # Adam's own state is counted apart; its update makes nothing new.
            gan.generator_optimizer = NoUpdate(gan.generator.parameters())
            gan.discriminator_optimizer = NoUpdate(gan.discriminator.parameters())
            # By their sizes: what is real may not mix with what is not.
            mean, projection = torch.empty(raw_dim), torch.empty(raw_dim, transform.dim)
            shapes = SentenceTransform(mean, projection, transform.kind)
            batch = _gan_batch(config, images, raw_dim)
            with Counter() as counter:
                do_gan_step(gan, of(images), batch, shapes, torch.device("cpu"), number=0, step=0)
        return counter.peak_bytes

    gans: list[Gan] = []

    def step(images: int) -> None:
        if not gans:
            gans.append(build_gan(config, transform.dim, device))
        batch = _gan_batch(config, images, raw_dim)
        do_gan_step(
            gans[0],
            of(images, tried_in or config.precision),
            batch,
            transform.to(device),
            device,
            number=0,
            step=0,
        )

    with _Shapes():
        generator, discriminator = networks(config, transform.dim)
        sizes = {"generator": _size(generator), "discriminator": _size(discriminator)}
    trained = sum(sizes.values())
    held = FLOAT_BYTES * (3 * trained + sizes["generator"])  # weights, two moments; the average
    return Trial(sizes, held, count, step)


def pair_trial(config: PretrainConfig, vocabulary: Vocabulary, device: torch.device) -> Trial:
    """Prepare to try the step of DAMSM pretraining."""
    # What weights it has changes nothing here, and none are downloaded for it.
    trunk = None if config.pair.inception_weights else untrained_inception()
    pair = build_pair(config, vocabulary, device, trunk)
    captions = (" ".join(vocabulary.words[1 : config.pair.max_words + 1]),)
    sizes = {"text encoder": _size(pair.captions), "image branch": _size(pair.images)}
    trained = sum(parameter.numel() for parameter in pair.trained().values())

    def step(images: int) -> None:
        changed = config.optim.model_copy(update={"batch_size": images})
        side = config.pair.image_size
        batch = Batch(
            images=torch.randint(0, 256, (images, 3, side, side), dtype=torch.uint8),
            sentences=torch.zeros(images, 1),
            image_keys=torch.arange(images),
            class_keys=torch.arange(images),
            captions=captions * images,
        )
        of = config.model_copy(update={"optim": changed})
        do_pair_step(of, pair, batch, vocabulary, 0, max(images, 1), device)

    def count(images: int) -> int:
        # Captions of real lengths cannot be counted by shape alone: two small steps are done.
        step(FIRST)  # Adam's state is made by the first
        peaks = []
        for some in (FIRST, 2 * FIRST):
            with Counter() as counter:
                step(some)
            peaks.append(counter.peak_bytes)
        each = (peaks[1] - peaks[0]) / FIRST
        return round(peaks[0] + each * (images - FIRST))

    held = FLOAT_BYTES * (sum(sizes.values()) + 2 * trained)
    return Trial(sizes, held, count, step)


def measure(
    trial: Trial, share: int, step_bytes: int, device: torch.device, limit_s: float
) -> Measured:
    """Time a step, of fewer images than a worker has where that would take too long.

    Args:
        trial: The step.
        share: Images of a worker.
        step_bytes: Of a step of that many.
        device: Of the trial.
        limit_s: Seconds that all of it may take, about.

    Raises:
        ValueError: If there is no memory for it.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        trial.step(share)
        torch.cuda.synchronize(device)
        started = time.monotonic()
        for _ in range(TIMED):
            trial.step(share)
        torch.cuda.synchronize(device)
        seconds = (time.monotonic() - started) / TIMED
        return Measured(share, seconds, torch.cuda.max_memory_allocated(device))
    first = min(FIRST, share)
    seconds, before = 0.0, time.monotonic()
    for _ in range(2):  # the second is warm
        started = time.monotonic()
        trial.step(first)
        seconds = time.monotonic() - started
        if seconds > limit_s / 2:
            return Measured(first, seconds, None)
    left = limit_s - (time.monotonic() - before)
    room = SPARE * psutil.virtual_memory().available
    images = min(share, int(first * left / max(seconds, 1e-9)), int(share * room / step_bytes))
    if images <= first:
        return Measured(first, seconds, None)
    started = time.monotonic()
    trial.step(images)
    return Measured(images, time.monotonic() - started, None)


class _Shapes(FakeTensorMode):
    """Tensors that have shapes and no content: nothing is computed, no memory is taken."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Shapes":
        return self  # tensors that are copied stay in the same world


def _gan_batch(config: TrainConfig, images: int, raw_dim: int) -> Batch:
    side = config.model.image_size
    return Batch(
        images=torch.randint(0, 256, (images, 3, side, side), dtype=torch.uint8),
        sentences=torch.randn(images, raw_dim),
        image_keys=torch.arange(images),
        class_keys=torch.arange(images),
        captions=tuple("word " * (1 + n % 9) for n in range(images)),
    )


def _size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
