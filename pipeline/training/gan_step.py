"""One training step of the GAN on a worker's share of a batch.

Dimensions in this file:
    B images of a batch over all workers, b this worker's share, S sentence size, Z noise size.
"""

import torch
from torch import Tensor

from pipeline.checkpoint.optimizer_state import reset_moments
from pipeline.common.failpoints import reach
from pipeline.config import OptimConfig, TrainConfig
from pipeline.data.loader import Batch
from pipeline.distributed import collective
from pipeline.training.device import autocast, explained
from ratgan.architectures import find_architecture
from ratgan.augmentation import Views, adapted, draw_views
from ratgan.matcher import Matcher
from ratgan.networks import TextDiscriminator, TextGenerator
from ratgan.ops.memory_format import placed
from ratgan.randomness import mismatched_partners, published_partners, step_noise
from ratgan.step import Gan
from ratgan.text.transform import SentenceTransform
from ratgan.text.vocabulary import MAX_WORDS, split_words


def networks(config: TrainConfig, sentence_dim: int) -> tuple[TextGenerator, TextDiscriminator]:
    """Build both networks; equal on every worker, since the seed is."""
    torch.manual_seed(config.seed)
    model = config.model
    return find_architecture(model.architecture).build(model.model_dump(), sentence_dim)


def matcher_of(config: TrainConfig, sentence_dim: int) -> Matcher | None:
    """Build the network of the matching loss, after `networks`; None without that loss."""
    return Matcher(config.model.image_size, sentence_dim) if config.optim.matching_weight else None


def build(config: TrainConfig, sentence_dim: int, device: torch.device) -> Gan:
    """Build networks and optimizers on the device they train on."""
    generator, discriminator = networks(config, sentence_dim)
    matcher = matcher_of(config, sentence_dim)
    return Gan.create(
        placed(generator, device),
        placed(discriminator, device),
        matcher=placed(matcher, device) if matcher else None,
        matcher_lr=config.optim.matching_lr,
        generator_lr=config.optim.generator_lr,
        discriminator_lr=config.optim.discriminator_lr,
        betas=config.optim.betas,
    )


def renew_matcher(gan: Gan, config: TrainConfig) -> None:
    """Set the network of the matching loss, if there is one, back to what `build` made of it."""
    if not gan.matcher or not gan.matcher_optimizer:
        return
    dim = gan.matcher.sentences.shape[1]
    networks(config, dim)  # draws the numbers before its own
    if fresh := matcher_of(config, dim):
        gan.matcher.load_state_dict(fresh.state_dict())
    reset_moments(gan.matcher_optimizer)


def do_step(
    gan: Gan,
    config: TrainConfig,
    batch: Batch,
    transform: SentenceTransform,
    device: torch.device,
    *,
    number: int,
    step: int,
    strength: Tensor | float = 1.0,
) -> dict[str, Tensor]:
    """Do one step on this worker's share of a batch.

    Args:
        gan: Updated in place.
        config: Of the run.
        batch: This worker's share.
        transform: Of raw sentence vectors, on the device.
        device: To train on.
        number: Of the batch; decides noise, pairs and views.
        step: Steps done before.
        strength: Share of the images that an augmentation changes, in [0, 1]; a tensor, if it is
            adaptive.

    Returns:
        What the step of the architecture does, and the next strength, if it is adaptive, as
        `augment/strength`.
    """
    optim, accumulate = config.optim, parts_of_share(config, collective.world())
    if optim.warmup_steps:
        _warm_up(gan, optim, step)
    # The pairing is that of the whole batch, whoever holds which part of it.
    raw = collective.gather(batch.sentences.to(device, non_blocking=True))
    sentences = transform(raw)  # [B, S]
    partners, weights = _pair(config, batch, number, device)
    noise = _share(step_noise(config.seed, number, len(sentences), config.model.noise_dim))
    views = None
    if config.augment:
        random = _share(draw_views(config.seed, number, len(sentences))).to(device)
        views = Views(config.augment, random, strength)
    choice = None
    if gan.matcher:
        classes = collective.gather(batch.class_keys.to(device))
        own = _share(torch.arange(len(classes), device=device))
        choice = gan.matcher.choice(optim.matching_weight, sentences, classes, own)
    if reach("worker.step", step=step, rank=collective.rank()):
        noise = noise * float("nan")
    with (
        explained(
            batch_size=optim.batch_size,
            workers=collective.world(),
            accumulate=accumulate,
            device=device,
        ),
        autocast(config.precision, device),
    ):
        values = find_architecture(config.model.architecture).step(
            gan,
            images=placed(batch.images.to(device, non_blocking=True).float() / 127.5 - 1, device),
            sentences=_share(sentences),
            mismatched=sentences[_share(partners).to(device)],
            mismatched_weights=None if weights is None else _share(weights).to(device),
            noise=noise.to(device),  # [b, Z]
            **({} if views is None else {"views": views}),
            **({} if choice is None else {"choice": choice}),
            penalty_weight=optim.penalty_weight,
            penalty_power=optim.penalty_power,
            average_decay=_decay(optim.average_decay, step),
            update=optim.update,
            accumulate=accumulate,
            synchronize=collective.average_gradients,
        )
    if config.augment_adaptive:
        sign = collective.mean(values["logit/real_sign"])
        values["augment/strength"] = adapted(
            torch.as_tensor(strength), sign, len(sentences), values["health/skipped"]
        )
    return values


def parts_of_share(config: TrainConfig, workers: int) -> int:
    """Return in how many parts a worker takes its share.

    With fewer workers than there may be each has a larger share. It takes it in more parts, so that
    the memory of none has to hold more at once than with all of them.
    """
    accumulate, most = config.optim.accumulate, config.workers
    if config.min_workers is None or most is None or workers == most:
        return accumulate
    at_once = -(-config.optim.batch_size // most // accumulate)  # images
    return -(-config.optim.batch_size // workers // at_once)


def _pair(
    config: TrainConfig, batch: Batch, step: int, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Choose the mismatched sentence of every image of the whole batch, and its weight."""
    if config.optim.mismatched == "published":
        read = [split_words(caption)[:MAX_WORDS] for caption in batch.captions]
        words = torch.tensor([len(each) for each in read])
        return published_partners(collective.gather_on(device, words))
    keys = torch.stack([batch.image_keys, batch.class_keys], dim=1)  # [b, 2]
    images, classes = collective.gather_on(device, keys).unbind(1)
    return mismatched_partners(config.seed, step, images, classes), None


def _share(whole: Tensor) -> Tensor:
    """Return this worker's part of something that belongs to the whole batch."""
    return whole.chunk(collective.world())[collective.rank()]


def _warm_up(gan: Gan, optim: OptimConfig, step: int) -> None:
    """Set both learning rates for a step: a function of it, so that a resumed run goes on alike."""
    share = min(1.0, (step + 1) / optim.warmup_steps)
    gan.generator_optimizer.param_groups[0]["lr"] = share * optim.generator_lr
    gan.discriminator_optimizer.param_groups[0]["lr"] = share * optim.discriminator_lr


def _decay(decay: float, step: int) -> float:
    """Forget the first, untrained weights quickly: (1 + n) / (10 + n) until it passes `decay`."""
    return min(decay, (1 + step) / (10 + step))
