"""What each training process does: restore, stream batches, step, report, checkpoint.

Dimensions in this file:
    B images of a batch over all workers, b this worker's share, S sentence size, Z noise size.
"""

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pipeline.checkpoint.async_saver import Saver
from pipeline.checkpoint.gan_state import gan_files, gan_tensors, restore
from pipeline.checkpoint.store import STATE, delete_after
from pipeline.common.console import print_line
from pipeline.common.failpoints import reach
from pipeline.config import TrainConfig
from pipeline.data.dataset import PreparedDataset
from pipeline.data.loader import Batch, prefetch
from pipeline.data.sample_order import SampleOrder
from pipeline.distributed import collective
from pipeline.distributed.graceful_stop import StopWatch
from pipeline.distributed.watchdog import Watchdog
from pipeline.evaluation.quick_evaluation import QuickEvaluation, score
from pipeline.storage.folder import Folder
from pipeline.training.device import autocast, compile_blocks, configure_precision, explained
from pipeline.training.loop import (
    Job,
    begin,
    flush_metrics_before,
    open_dataset,
    reader,
    resume,
    run_state,
    watched,
)
from pipeline.training.reporter import Reporter
from pipeline.training.rollback import BatchOffset, Skips, refuse_to_go_back
from pipeline.training.step_metrics import Interval
from ratgan.discriminator import Discriminator
from ratgan.generator import Generator
from ratgan.ops.memory_format import placed
from ratgan.randomness import (
    mismatched_partners,
    published_partners,
    step_noise,
)
from ratgan.step import Gan, train_step
from ratgan.text.transform import SentenceTransform
from ratgan.text.vocabulary import MAX_WORDS, split_words


def networks(config: TrainConfig, sentence_dim: int) -> tuple[Generator, Discriminator]:
    """Build both networks; equal on every worker, since the seed is."""
    torch.manual_seed(config.seed)
    model = config.model
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
    return generator, discriminator


def build(config: TrainConfig, sentence_dim: int, device: torch.device) -> Gan:
    """Build networks and optimizers on the device they train on."""
    generator, discriminator = networks(config, sentence_dim)
    return Gan.create(
        placed(generator, device),
        placed(discriminator, device),
        generator_lr=config.optim.generator_lr,
        discriminator_lr=config.optim.discriminator_lr,
        betas=config.optim.betas,
    )


def work(fields: dict[str, Any]) -> str:
    """Train; the function that Ray Train runs in each worker.

    Args:
        fields: Of a `Job`.

    Returns:
        Why it stopped before its last step, on worker 0; empty if it did not.
    """
    return watched(_train, *begin(fields, TrainConfig))


def _train(
    job: Job,
    config: TrainConfig,
    device: torch.device,
    saver: Saver,
    stop: StopWatch,
    watchdog: Watchdog,
) -> bool:
    """Restore and train; the saver is worker 0's to use. Tell whether all steps are done."""
    dataset = open_dataset(job, config.data.path)
    plan = SampleOrder(dataset.units("train"), config.optim.batch_size, config.seed)
    exactness = configure_precision(
        config.precision, tf32=config.tf32, deterministic=config.deterministic, device=device
    )
    gan = build(config, dataset.transform.dim, device)
    if config.compile:
        compile_blocks(gan.generator, device)
    transform = copy.deepcopy(dataset.transform).to(device)  # the dataset's own stays on the CPU
    pack = partial(
        gan_files, gan=gan, transform=dataset.transform, encoder_file=dataset.encoder_file()
    )
    before: dict[str, Any] = {}

    def go_to(folder: Folder) -> None:
        restore(folder, gan)
        before.update(folder.read_json(STATE))

    step = resume(job, config, saver.root, device, go_to)
    course, skips = BatchOffset.of(before), Skips(device, before.get("skipped_steps", 0))
    last = config.steps(plan.images)
    reporter = Reporter(config, job, dataset, device) if collective.rank() == 0 else None
    if reporter:
        print_line(f"  {exactness}")
    if reporter and step == 0:
        reporter.sample(gan, 0)
    evaluation = _evaluation(config, dataset, device)

    incoming = reader(
        config,
        dataset,
        plan,
        image_size=config.model.image_size,
        captions=config.optim.mismatched == "published",
    )

    def batches_from(step: int) -> Iterator[Batch]:
        passed_over = course.passed_over
        return prefetch(incoming.batches(step + passed_over, last + passed_over), device)

    batches, interval, alone, stopping = batches_from(step), Interval(step), False, False
    while step < last and not stopping:
        # Worker 0 draws, measures and saves alone, and the others wait for it here.
        with watchdog.step(step, patient=alone and not reporter):
            batch, number = interval.wait_for(batches), step + course.passed_over
            values = do_step(gan, config, batch, transform, device, number=number, step=step)
            step += 1
            skips.add(values.pop("health/skipped"))
            saver.check()
            # Where steps are being left out there is no checkpoint, and so no place to stop.
            stopping = collective.any_of(stop.asked, device) and not skips.in_a_row()
            interval.add(values)
        draws = step % config.sample_every == 0 or step == last
        saves = step % config.checkpoint_every == 0 or step == last or stopping
        measures = config.evaluate_every and (step % config.evaluate_every == 0 or step == last)
        alone, quality = bool(draws or saves or measures), {}

        if reporter and draws:
            reporter.sample(gan, step)
        if step % config.log_every == 0 or step == last:
            measured = interval.close(step, config.optim.batch_size, device)
            measured["health/skipped_steps"] = skips.total()
            if evaluation and measures:
                quality = evaluation.measure(gan.average)
                measured |= quality
            if reporter:
                reporter.line(step, last, measured)
                reporter.pace.interval(step, interval.own_s)
            in_a_row = skips.in_a_row()
            if in_a_row >= config.health.skipped_in_a_row:
                saver.finish()
                # A run that was never stopped has no other place to go back to.
                reached = step
                step = resume(job, config, saver.root, device, go_to, extras=False)
                refuse_to_go_back(reached, step, in_a_row, course, config.health.rollbacks)
                course = course.back(reached, step)
                skips.end_row()
                if reporter:
                    delete_after(saver.root, step)
                    reporter.went_back(reached, step, in_a_row)
                # The stream that ran ahead ends when it is let go.
                batches, interval = batches_from(step), Interval(step)
                watchdog.warm_up()
                continue
            interval = Interval(step)
        if reporter and saves:
            if step < last and skips.in_a_row():
                # Where steps are being left out may be where they always are: no place to return.
                print_line(f"step {step:,}: no checkpoint while losses or gradients are not finite")
                continue
            state = run_state(job, config, dataset, plan, device, step)
            state |= {**course.record(), "skipped_steps": skips.total()}
            extra = step % config.checkpoint_every != 0
            # One of a stop is not there in a run that was not stopped, so it is not its best.
            scored = config.keep_best and (not extra or step == last)
            best = score(quality, config.best_by) if scored else None
            packed = flush_metrics_before(reporter.tracker, pack)
            saver.save(step, gan_tensors(gan), packed, state, best, extra=extra)
    return step >= last


def _evaluation(
    config: TrainConfig, dataset: PreparedDataset, device: torch.device
) -> QuickEvaluation | None:
    """Return what measures quality, on worker 0 and if that is wanted."""
    if not config.evaluate_every or collective.rank() != 0:
        return None
    return QuickEvaluation(
        dataset,
        count=config.evaluate_images,
        image_size=config.model.image_size,
        seed=config.seed,
        device=device,
    )


def do_step(
    gan: Gan,
    config: TrainConfig,
    batch: Batch,
    transform: SentenceTransform,
    device: torch.device,
    *,
    number: int,
    step: int,
) -> dict[str, Tensor]:
    """Do one step on this worker's share of a batch.

    Args:
        gan: Updated in place.
        config: Of the run.
        batch: This worker's share.
        transform: Of raw sentence vectors, on the device.
        device: To train on.
        number: Of the batch; decides noise and pairs.
        step: Steps done before.
    """
    optim, accumulate = config.optim, parts_of_share(config, collective.world())
    # The pairing is that of the whole batch, whoever holds which part of it.
    raw = collective.gather(batch.sentences.to(device, non_blocking=True))
    sentences = transform(raw)  # [B, S]
    partners, weights = _pair(config, batch, number, device)
    noise = _share(step_noise(config.seed, number, len(sentences), config.model.noise_dim))
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
        return train_step(
            gan,
            images=placed(batch.images.to(device, non_blocking=True).float() / 127.5 - 1, device),
            sentences=_share(sentences),
            mismatched=sentences[_share(partners).to(device)],
            mismatched_weights=None if weights is None else _share(weights).to(device),
            noise=noise.to(device),  # [b, Z]
            penalty_weight=optim.penalty_weight,
            penalty_power=optim.penalty_power,
            average_decay=_decay(optim.average_decay, step),
            update=optim.update,
            accumulate=accumulate,
            synchronize=collective.average_gradients,
        )


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


def _decay(decay: float, step: int) -> float:
    """Forget the first, untrained weights quickly: (1 + n) / (10 + n) until it passes `decay`."""
    return min(decay, (1 + step) / (10 + step))
