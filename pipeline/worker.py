"""What each training process does: restore, stream batches, step, report, checkpoint.

Dimensions in this file:
    B images of a batch over all workers, b this worker's share, S sentence size, Z noise size.
"""

import copy
from typing import Any

import ray.train
import ray.train.torch
import torch
from PIL import Image
from torch import Tensor

from pipeline import collective
from pipeline.checkpointing import restore, save_checkpoint
from pipeline.config import TrainConfig
from pipeline.dataset import Batch, Example, PreparedDataset
from pipeline.loop import Interval, Job, begin, resume, stream
from pipeline.plan import Plan
from pipeline.progress import duration, say
from pipeline.storage import Folder
from pipeline.tracking import Tracker
from ratgan.discriminator import Discriminator
from ratgan.generator import Generator
from ratgan.pictures import attention_overlay, grid, png
from ratgan.randomness import (
    mismatched_partners,
    published_partners,
    sample_noise,
    step_noise,
)
from ratgan.sampling import sample
from ratgan.step import Gan, train_step
from ratgan.text.vocabulary import MAX_WORDS, split_words


def build(config: TrainConfig, sentence_dim: int, device: torch.device) -> Gan:
    """Build networks and optimizers; equal on every worker, since the seed is."""
    torch.manual_seed(config.seed)
    model, optim = config.model, config.optim
    generator = Generator(
        image_size=model.image_size,
        sentence_dim=sentence_dim,
        base_channels=model.base_channels,
        noise_dim=model.noise_dim,
        controller_dim=model.controller_dim,
        affine_dim=model.affine_dim,
        affines_per_block=model.affines_per_block,
        recurrent=model.recurrent,
    )
    discriminator = Discriminator(
        image_size=model.image_size,
        sentence_dim=sentence_dim,
        base_channels=model.base_channels,
        attention=model.attention,
    )
    return Gan.create(
        generator.to(device),
        discriminator.to(device),
        generator_lr=optim.generator_lr,
        discriminator_lr=optim.discriminator_lr,
        betas=optim.betas,
    )


def work(fields: dict[str, Any]) -> None:
    """Train; the function that Ray Train runs in each worker.

    Args:
        fields: Of a `Job`.
    """
    job, config, device = begin(fields, TrainConfig)
    dataset = PreparedDataset(config.data.path)
    plan = Plan(dataset.units("train"), config.optim.batch_size, config.seed)
    gan = build(config, dataset.transform.dim, device)
    transform = copy.deepcopy(dataset.transform).to(device)  # the dataset's own stays on the CPU
    checkpoints = Folder(job.run) / "checkpoints"

    step = resume(config, checkpoints, device, lambda folder: restore(folder, gan))
    last = config.steps(plan.images)
    reporter = Reporter(config, job, dataset, device) if collective.rank() == 0 else None
    if reporter and step == 0:
        reporter.sample(gan, 0)

    def checkpoint() -> None:
        if reporter:
            # What was told of these steps would not be told again by a start from here.
            reporter.tracker.flush()
            state = {
                "run": config.name,
                "images": step * config.optim.batch_size,
                "config": config.record(),
                "dataset": dataset.digest,
                "versions": job.versions,
            }
            save_checkpoint(
                checkpoints,
                gan,
                step=step,
                state=state,
                transform=dataset.transform,
                encoder=dataset.manifest.encoder.record(),
                encoder_file=dataset.encoder_file(),
                keep=config.keep_checkpoints,
            )

    batches = stream(
        config,
        dataset,
        plan,
        first_step=step,
        last_step=last,
        image_size=config.model.image_size,
        captions=config.optim.mismatched == "published",
    )
    interval = Interval(step)
    while step < last:
        batch = interval.wait_for(batches)
        # The pairing is that of the whole batch, whoever holds which part of it.
        raw = collective.gather(batch.sentences.to(device, non_blocking=True))
        sentences = transform(raw)  # [B, S]
        partners, weights = _pair(config, batch, step, device)
        noise = _share(step_noise(config.seed, step, len(sentences), config.model.noise_dim))
        values = train_step(
            gan,
            images=batch.images.to(device, non_blocking=True).float() / 127.5 - 1,
            sentences=_share(sentences),
            mismatched=sentences[_share(partners).to(device)],
            mismatched_weights=None if weights is None else _share(weights).to(device),
            noise=noise.to(device),  # [b, Z]
            penalty_weight=config.optim.penalty_weight,
            penalty_power=config.optim.penalty_power,
            average_decay=_decay(config.optim.average_decay, step),
            update=config.optim.update,
            synchronize=collective.average_gradients,
        )
        step += 1
        interval.add(values)

        if reporter and (step % config.sample_every == 0 or step == last):
            reporter.sample(gan, step)
        if step % config.log_every == 0 or step == last:
            measured = interval.close(step, config.optim.batch_size, device)
            if reporter:
                reporter.line(step, last, measured)
            ray.train.report(measured)
            interval = Interval(step)
        if step % config.checkpoint_every == 0 or step == last:
            checkpoint()


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


def _decay(decay: float, step: int) -> float:
    """Forget the first, untrained weights quickly: (1 + n) / (10 + n) until it passes `decay`."""
    return min(decay, (1 + step) / (10 + step))


class Reporter:
    """What worker 0 tells: a line on the screen, points of curves, pictures.

    Args:
        config: Resolved options.
        job: Where to report.
        dataset: Gives the captions of the samples.
        device: The generator's.
    """

    def __init__(
        self, config: TrainConfig, job: Job, dataset: PreparedDataset, device: torch.device
    ) -> None:
        self.tracker = Tracker(Folder(job.run))
        self.folder = Folder(job.run) / "samples"
        self.device = device
        self.attention = config.model.attention != "none"
        split = "validation" if dataset.manifest.rows("validation") else "train"
        examples: list[Example] = dataset.examples(split, config.samples)
        self.captions = [example.caption for example in examples]
        self.sentences = torch.stack([example.sentence for example in examples])
        self.noise = sample_noise(config.seed, len(examples), config.model.noise_dim)
        # Small pictures are shown larger, so that they can be seen and their captions read.
        self.scale = max(1, 128 // config.model.image_size)

    def line(self, step: int, last: int, measured: dict[str, float]) -> None:
        """Say how it goes and log it."""
        speed = measured["speed/images_per_s"]
        per_step = measured["images_seen"] / step
        memory = measured.get("memory/gpu_peak_gib", measured["memory/process_gib"])
        say(
            f"step {step:,}/{last:,}  images {measured['images_seen']:,.0f}  "
            f"D {measured['loss/discriminator']:.3f}  G {measured['loss/generator']:+.3f}  "
            f"penalty {measured['loss/penalty']:.3f}  {speed:.1f} img/s  "
            f"data wait {measured['speed/data_wait_share']:.0%}  mem {memory:.1f} GiB  "
            f"ETA {duration((last - step) * per_step / speed)}"
        )
        self.tracker.metrics(step, measured)

    def sample(self, gan: Gan, step: int) -> None:
        """Draw the fixed captions from the fixed noise with the averaged generator."""
        images = sample(gan.average, self.sentences, self.noise)
        picture = grid(images, self.captions, scale=self.scale)
        self._picture("samples", step, picture)
        if not self.attention:
            return
        with torch.no_grad():
            weights = gan.discriminator.attention_maps(
                images.to(self.device).float() / 127.5 - 1, self.sentences.to(self.device)
            ).cpu()
        looked_at = attention_overlay(images, weights)
        self._picture("attention", step, grid(looked_at, self.captions, scale=self.scale))

    def _picture(self, name: str, step: int, picture: Image.Image) -> None:
        file = f"{name}-{step:08d}.png"
        self.folder.write(file, png(picture))
        self.tracker.image(name, step, f"samples/{file}")
