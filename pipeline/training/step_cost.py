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

from pipeline.config import TrainConfig
from pipeline.data.loader import Batch
from pipeline.training.damsm.config import PretrainConfig
from pipeline.training.damsm.worker import build as build_pair
from pipeline.training.damsm.worker import do_step as do_pair_step
from pipeline.training.device import configure_precision
from pipeline.training.gan_step import build as build_gan
from pipeline.training.gan_step import do_step as do_gan_step
from pipeline.training.gan_step import matcher_of, networks
from ratgan.ops.op_counter import Counter, NoUpdate
from ratgan.options import Precision
from ratgan.step import Gan
from ratgan.text.image_branch import untrained_inception
from ratgan.text.transform import SentenceTransform
from ratgan.text.vocabulary import Vocabulary

FIRST = 2  # images of the first step; one image alone has no mismatched caption
TIMED = 3  # steps on a GPU, after one that warms up
SPARE = 0.8  # share of the free memory of a machine that a trial may use
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Trial:
    """A training step that can be measured.

    Attributes:
        parameters: Number of parameters of each trained network.
        held_bytes: Permanent memory: weights, averages and optimizers.
        step_bytes: Additional peak memory of a step of so many images.
        step: Runs one step on so many synthetic images.
    """

    parameters: dict[str, int]
    held_bytes: int
    step_bytes: Callable[[int], int]
    step: Callable[[int], None]


@dataclass(frozen=True)
class Measured:
    """The result of a timed step.

    Attributes:
        seconds: Time of the step.
        peak_bytes: Peak memory on a GPU, otherwise None.
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
    """Prepare the trial of a GAN's step.

    Args:
        raw_dim: Size of a raw sentence vector.
        tried_in: Precision of the trial; that of the run if not given.
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
            # torch checks whether a parameter has content before it copies it.
            warnings.filterwarnings("ignore", message="Accessing the data pointer")
            pair = networks(config, transform.dim)
            gan = Gan.create(*pair, matcher=matcher_of(config, transform.dim))
            # Adam's state is counted in `held_bytes`; its update allocates nothing.
            gan.generator_optimizer = NoUpdate(gan.generator.parameters())
            gan.discriminator_optimizer = NoUpdate(gan.discriminator.parameters())
            if gan.matcher:
                gan.matcher_optimizer = NoUpdate(gan.matcher.parameters())
            # Fake tensors of the same sizes: real tensors cannot be mixed with fake ones.
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
        if matcher := matcher_of(config, transform.dim):
            sizes["matcher"] = _size(matcher)
    trained = sum(sizes.values())
    held = FLOAT_BYTES * (3 * trained + sizes["generator"])  # weights, two moments; the average
    return Trial(sizes, held, count, step)


def pair_trial(config: PretrainConfig, vocabulary: Vocabulary, device: torch.device) -> Trial:
    """Prepare the trial of a step of DAMSM pretraining."""
    # The cost does not depend on the weights, so none are downloaded.
    known = config.pair.branch != "inception" or config.pair.inception_weights
    trunk = None if known else untrained_inception()
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
        # Fake tensors do not support captions of real lengths: two small real steps are measured.
        step(FIRST)  # creates Adam's state
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
    """Time a step, with fewer images than a worker's share if the whole would take too long.

    Args:
        share: Images of a worker.
        step_bytes: Additional memory of a step of `share` images.
        limit_s: Approximate limit for the whole measurement in seconds.

    Raises:
        ValueError: If there is not enough memory.
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
    """Fake tensors with shapes and no content: nothing is computed or allocated."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Shapes":
        return self  # copied tensors keep this mode


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
