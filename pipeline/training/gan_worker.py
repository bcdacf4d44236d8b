"""A worker of a GAN training: restore, stream batches, step, report, save."""

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pipeline.checkpoint.gan_state import gan_files, gan_tensors, restore
from pipeline.checkpoint.store import delete_after
from pipeline.common.console import print_line
from pipeline.config import TrainConfig
from pipeline.data.dataset import PreparedDataset
from pipeline.data.loader import Batch, prefetch
from pipeline.data.sample_order import SampleOrder
from pipeline.distributed import collective
from pipeline.evaluation.quick_evaluation import AGREEMENT, QuickEvaluation, score
from pipeline.evaluation.shapes_classifier import CHANCE
from pipeline.training.device import compile_blocks, configure_precision
from pipeline.training.diagnostics import LearningWatch
from pipeline.training.gan_step import build, do_step, renew_matcher
from pipeline.training.loop import (
    Worker,
    flush_metrics_before,
    open_dataset,
    open_worker,
    reader,
    resume,
    run_state,
)
from pipeline.training.reporter import Reporter
from pipeline.training.rollback import BatchOffset, Skips, refuse_to_go_back
from pipeline.training.step_metrics import Interval
from pipeline.training.step_profile import StepProfile


def work(fields: dict[str, Any]) -> str:
    """Train; the function that Ray Train runs in each worker.

    Args:
        fields: Of a `Job`.

    Returns:
        Why it stopped before its last step, on worker 0; empty if it did not.
    """
    with open_worker(fields, TrainConfig) as worker, _profile(worker) as profile:
        config, device, watchdog = worker.config, worker.device, worker.watchdog
        training, due, stopping = GanTraining(worker), Due(), False
        while training.step < training.last and not stopping:
            # Rank 0 alone draws, measures and saves; the others wait for it in their next step.
            patient = due.on_rank_zero and not training.reporter
            now = training.step
            with profile.step(now), watchdog.step(now, patient=patient):
                batch, number = training.next_batch()
                values = do_step(
                    training.gan,
                    config,
                    batch,
                    training.transform,
                    device,
                    number=number,
                    step=training.step,
                    strength=training.strength,
                )
                training.count(values)
                stopping = collective.any_of(worker.stop.asked, device) and training.may_stop()
            due = training.due(stopping)
            if due.sample:
                training.draw_samples()
            quality = training.log(measure=due.measure) if due.log else {}
            if due.log and training.is_hopeless():
                training.give_up(due, quality)
            elif due.log and training.diverges():
                training.roll_back()
                watchdog.warm_up()
            elif due.save:
                training.save(quality)
    return "" if training.step >= training.last else worker.stop.reason


@dataclass(frozen=True)
class Due:
    """What is to be done after a step.

    Attributes:
        log: Report the means of the interval; the place where a run may be rolled back.
        sample: Draw the sample grid.
        measure: Measure the quality of the averaged generator.
        save: Save a checkpoint.
        profile: The trace of this step and those before it was written.
    """

    log: bool = False
    sample: bool = False
    measure: bool = False
    save: bool = False
    profile: bool = False

    @property
    def on_rank_zero(self) -> bool:
        """Whether rank 0 has work that the other workers wait for."""
        return self.sample or self.measure or self.save or self.profile


class GanTraining:
    """A GAN training in one worker: networks, batches, and the position of the run.

    Args:
        worker: That trains.

    Attributes:
        step: Steps done.
        last: Steps of the whole run.
        strength: Share of the images that an augmentation changes; equal on all workers.
        reporter: On rank 0; None on the others.
    """

    def __init__(self, worker: Worker[TrainConfig]) -> None:
        job, config, device = worker.job, worker.config, worker.device
        self.job, self.config, self.device, self.saver = job, config, device, worker.saver
        dataset = self.dataset = open_dataset(job, config.data.path)
        self.order = SampleOrder(dataset.units("train"), config.optim.batch_size, config.seed)
        self.last = config.steps(self.order.images)
        self.profiled_until = config.profiled().stop
        exactness = configure_precision(
            config.precision, tf32=config.tf32, deterministic=config.deterministic, device=device
        )
        self.gan = build(config, dataset.transform.dim, device)
        if config.compile:
            compile_blocks(self.gan.generator, device)
        # A copy: the dataset's own stays on the CPU.
        self.transform = copy.deepcopy(dataset.transform).to(device)
        self.files = partial(
            gan_files,
            gan=self.gan,
            transform=dataset.transform,
            encoder_file=dataset.encoder_file(),
        )
        state = self._restore()
        self.offset = BatchOffset.of(state)
        self.skips = Skips(device, state.get("skipped_steps", 0))
        generator = self.gan.generator
        self.watch = LearningWatch(
            state.get("watch", {}),
            parameters=sum(each.numel() for each in generator.parameters()),
            tanh=generator.arguments.get("output", "tanh") == "tanh",
            augmented=bool(config.augment),
        )
        # Runs of earlier versions keep the captions that their grids began with.
        self.spread_samples: bool = state.get("spread_samples", not state)
        self.started_from: dict[str, Any] | None = state.get("started_from")
        self.reporter = None
        if collective.rank() == 0:
            self.reporter = Reporter(
                config, job, dataset, device, self.watch, spread=self.spread_samples
            )
            print_line(f"  {exactness}")
            if self.step == 0:
                self.reporter.sample(self.gan, 0)
        self.evaluation = _evaluation(config, dataset, device)
        self.reader = reader(
            config,
            dataset,
            self.order,
            image_size=config.model.image_size,
            captions=config.optim.mismatched == "published",
        )
        self._start_batches()

    def _restore(self, *, extras: bool = True) -> dict[str, Any]:
        """Go to the newest checkpoint and return its state; empty at the start of a run.

        Raises:
            ValueError: If the weights that the run is to start from are in none.
        """
        state = resume(
            self.job,
            self.config,
            self.saver.root,
            self.device,
            lambda folder: restore(folder, self.gan),
            extras=extras,
        )
        if not state and self.config.start_from is not None:
            raise ValueError(
                f"{self.saver.root} holds no complete checkpoint any more, not even the one of "
                "step 0 with the weights to start from. The same command takes them again."
            )
        self.step: int = state.get("step", 0)
        adaptive = self.config.augment_adaptive
        strength: float = state.get("augment_strength", 0.0) if adaptive else 1.0
        self.strength = torch.tensor(strength, device=self.device)
        return state

    def _start_batches(self) -> None:
        """Stream batches from this step on; a stream that ran ahead ends when it is let go."""
        first, last = self.step + self.offset.passed_over, self.last + self.offset.passed_over
        self.batches = prefetch(self.reader.batches(first, last), self.device)
        self.interval = Interval(self.step)

    def next_batch(self) -> tuple[Batch, int]:
        """Wait for the batch of the next step; return it with its number."""
        return self.interval.wait_for(self.batches), self.step + self.offset.passed_over

    def count(self, values: dict[str, Tensor]) -> None:
        """Count a step that was done.

        Args:
            values: That it returned.

        Raises:
            Exception: That a save in the background ended with.
        """
        self.step += 1
        self.strength = values.get("augment/strength", self.strength)
        self.skips.add(values.pop("health/skipped"))
        self.saver.check()
        self.interval.add(values)

    def due(self, stopping: bool) -> Due:
        """Return what is to be done after this step."""
        config, ends = self.config, self.step == self.last

        def every(steps: int) -> bool:
            return steps > 0 and (self.step % steps == 0 or ends)

        return Due(
            log=every(config.log_every),
            sample=every(config.sample_every),
            measure=every(config.evaluate_every),
            save=every(config.checkpoint_every) or stopping,
            profile=self.step == self.profiled_until,
        )

    def draw_samples(self) -> None:
        """Draw the sample grid, on rank 0."""
        if self.reporter:
            self.reporter.sample(self.gan, self.step)

    def log(self, *, measure: bool) -> dict[str, float]:
        """Report the means of the interval, and begin the next one.

        Args:
            measure: Measure the quality of the averaged generator too.

        Returns:
            That quality, on rank 0.
        """
        measured = self.interval.close(self.step, self.config.optim.batch_size, self.device)
        measured["health/skipped_steps"] = self.skips.total()
        quality = self.evaluation.measure(self.gan.average) if self.evaluation and measure else {}
        chance = CHANCE if AGREEMENT in quality else None
        steps = self.step - self.interval.first
        measured |= self.watch.interval(self.step, steps, measured | quality, chance)
        if self.reporter:
            self.reporter.line(self.step, self.last, measured | quality)
            self.reporter.stragglers.interval(self.step, self.interval.own_s)
        self.interval = Interval(self.step)
        return quality

    def is_hopeless(self) -> bool:
        """Tell whether the generator is dead, and the run is to end for it before its last step."""
        stops = self.config.health.on_dead_generator == "stop"
        return self.watch.dead and stops and self.step < self.last

    def give_up(self, due: Due, quality: dict[str, float]) -> None:
        """End the run, with samples and a checkpoint of this step.

        Args:
            due: What was due after this step.
            quality: Of this step, if it was measured.

        Raises:
            ValueError: Always.
        """
        if self.reporter:
            if not due.sample:
                self.draw_samples()
            self.save(quality)
            self.reporter.tracker.flush()
            self.saver.finish()
        collective.from_rank_zero(self.step, self.device)  # nobody ends before all is saved
        raise ValueError(
            f"step {self.step:,}: {self.watch.death()} To train this one on anyway, use "
            "--health.on-dead-generator warn."
        )

    def diverges(self) -> bool:
        """Tell whether so many of the last steps were skipped that the run must be rolled back."""
        return self.skips.in_a_row() >= self.config.health.skipped_in_a_row

    def roll_back(self) -> None:
        """Go back to the last regular checkpoint, and on with the batches after these.

        Raises:
            ValueError: If there is none, or it was done too often.
        """
        self.saver.finish()
        reached, skipped = self.step, self.skips.in_a_row()
        renew_matcher(self.gan, self.config)  # the checkpoint may be from before it
        # A run that was never stopped has no checkpoints but the regular ones.
        target = self.step if self._restore(extras=False) else None
        refuse_to_go_back(
            reached,
            target,
            skipped,
            self.offset,
            allowed=self.config.health.rollbacks,
            precision=self.config.precision,
        )
        self.offset = self.offset.back(reached, self.step)
        self.skips.end_row()
        if self.reporter:
            delete_after(self.saver.root, self.step)
            self.reporter.went_back(reached, self.step, skipped)
        self._start_batches()

    def may_stop(self) -> bool:
        """Tell whether this step can be saved: not while steps are skipped."""
        return not self.skips.in_a_row()

    def save(self, quality: dict[str, float]) -> None:
        """Save a checkpoint in the background, on rank 0.

        Args:
            quality: Of this step, if it was measured.
        """
        if not self.reporter:
            return
        config, step = self.config, self.step
        if step < self.last and self.skips.in_a_row():
            # Where steps are being left out may be where they always are: no place to return.
            print_line(f"step {step:,}: no checkpoint while losses or gradients are not finite")
            return
        state = run_state(self.job, config, self.dataset, self.order, self.device, step)
        state |= {**self.offset.record(), "skipped_steps": self.skips.total()}
        state |= {"watch": self.watch.seen.record(), "spread_samples": self.spread_samples}
        if self.started_from:
            state["started_from"] = self.started_from
        if config.augment_adaptive:
            state["augment_strength"] = float(self.strength)
        extra = step % config.checkpoint_every != 0
        # One of a stop is not there in a run that was not stopped, so it is not its best.
        scored = config.keep_best and (not extra or step == self.last)
        scored = scored and config.evaluate_beside.protocol is None  # which scores it later
        self.saver.save(
            step,
            gan_tensors(self.gan),
            flush_metrics_before(self.reporter.tracker, self.files),
            state,
            score(quality, config.best_by) if scored else None,
            extra=extra,
        )


def _profile(worker: Worker[TrainConfig]) -> StepProfile:
    """Return what records the steps that the options name."""
    return StepProfile(worker.config.profiled(), worker.job.folder, worker.device)


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
        extractor=config.evaluate_extractor,
    )
