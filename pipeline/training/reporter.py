"""Rank-0 console, metric and sample logging."""

import math
from typing import Any

import torch
from PIL import Image

from pipeline.common.console import duration, print_line
from pipeline.config import TrainConfig
from pipeline.data.dataset import Example, PreparedDataset
from pipeline.evaluation.quick_evaluation import said
from pipeline.storage.local_disk import NO_ROOM
from pipeline.tracking.tracker import Tracker
from pipeline.training.diagnostics import LearningWatch, StragglerDetector
from pipeline.training.held_out import IMAGES, HeldOut
from pipeline.training.loop import Job
from pipeline.training.peak_share import peak_images_per_s
from ratgan.randomness import sample_noise
from ratgan.sampling import sample
from ratgan.step import Gan
from ratgan.visualize import attention_overlay, grid, grid_with_boxes, png

CROSSED = 8  # images of the grid that are drawn again from the caption of the next one


class RunReporter:
    """Logs for rank 0 of any training: metrics, warnings, workers that are slower than others.

    Args:
        job: Where to report.
    """

    def __init__(self, job: Job) -> None:
        self.tracker = Tracker(job.folder)
        self.stragglers = StragglerDetector(self._warn)

    def _warn(self, tag: str, value: str, text: str) -> None:
        print_line(f"warning: {text}")
        self.tracker.tag(tag, value)


class Reporter(RunReporter):
    """Logs of a GAN training: a line on the console, metrics, sample grids.

    Args:
        job: Has the run's folder.
        dataset: Has the captions of the samples.
        watch: Looks at the samples too, and tells what it sees here.
        spread: Take the captions from all over the dataset; otherwise its first ones, as runs of
            earlier versions do to their end.
    """

    def __init__(
        self,
        config: TrainConfig,
        job: Job,
        dataset: PreparedDataset,
        device: torch.device,
        watch: LearningWatch,
        *,
        spread: bool,
    ) -> None:
        super().__init__(job)
        self.watch, watch.tell = watch, self._warn
        self.folder = job.folder / "samples"
        self.folder.remove_abandoned()  # by a worker that was lost during this start
        self.device = device
        split = "validation" if dataset.manifest.rows("validation") else "train"
        chosen = dataset.spread(split, max(config.samples, IMAGES), config.seed)
        examples: list[Example] = chosen if spread else dataset.examples(split, config.samples)
        examples = examples[: config.samples]
        self.captions = [example.caption for example in examples]
        self.real = torch.stack([example.image for example in examples])
        self.sentences = torch.stack([example.sentence for example in examples])
        self.noise = sample_noise(config.seed, len(examples), config.model.noise_dim)
        self.held_out = None
        if split == "validation":
            self.held_out = HeldOut(
                dataset.spread("train", IMAGES, config.seed),
                chosen[:IMAGES],
                image_size=config.model.image_size,
                seed=config.seed,
                device=device,
            )
        self.peak_speed = peak_images_per_s(config, dataset.transform.dim, device)
        # Small images are enlarged, so that images and captions are readable.
        self.scale = max(1, 128 // config.model.image_size)

    def line(self, step: int, last: int, measured: dict[str, float]) -> None:
        """Print the progress and log the metrics."""
        speed = measured["speed/images_per_s"]
        per_step = measured["images_seen"] / step
        share = ""
        if self.peak_speed:
            measured = measured | {"speed/peak_share": speed / self.peak_speed}
            share = f" ({measured['speed/peak_share']:.1%} of the peak)"
        memory = measured.get("memory/gpu_peak_gib", measured["memory/process_gib"])
        print_line(
            f"step {step:,}/{last:,}  images {measured['images_seen']:,.0f}  "
            f"D {measured['loss/discriminator']:.3f}  G {measured['loss/generator']:+.3f}  "
            f"penalty {measured['loss/penalty']:.3f}  {speed:.1f} img/s{share}  "
            f"data wait {measured['speed/data_wait_share']:.0%}  mem {memory:.1f} GiB  "
            f"ETA {duration((last - step) * per_step / speed)}" + said(measured)
        )
        finite = {name: value for name, value in measured.items() if math.isfinite(value)}
        self.tracker.metrics(step, finite)

    def went_back(self, reached: int, step: int, skips: int) -> None:
        """Log a rollback to an earlier step; points of later steps stay in the metrics."""
        print_line(
            f"step {reached:,}: the last {skips:,} steps had losses or gradients that are not "
            f"finite. Rolling back to step {step:,}, and continuing with the batches after them"
        )
        self.tracker.tag("health.rollback", f"step {reached} to step {step}")

    def sample(self, gan: Gan, step: int) -> None:
        """Log images of the fixed captions and noise, by the averaged generator."""
        images = sample(gan.average, self.sentences, self.noise)
        picture, boxes = grid_with_boxes(images, self.captions, scale=self.scale)
        layout = {"captions": self.captions, "boxes": boxes, "scale": self.scale}
        self._picture("samples", step, picture, layout)
        seen = self.watch.samples(step, images, self.real)
        sentences, noise = self.sentences[:CROSSED], self.noise[:CROSSED]
        others = sentences.roll(-1, 0)
        crossed, different = sample(gan.average, others, noise), (others != sentences).any(1)
        seen |= self.watch.text(step, images[:CROSSED], crossed, different)
        if self.held_out:
            seen |= self.watch.held_out(step, *self.held_out.logits(gan))
        if seen:
            self.tracker.metrics(step, seen)
        with torch.no_grad():
            weights = gan.discriminator.attention_maps(
                images.to(self.device).float() / 127.5 - 1, self.sentences.to(self.device)
            )
        if weights is not None:
            looked_at = attention_overlay(images, weights.cpu())
            self._picture("attention", step, grid(looked_at, self.captions, scale=self.scale))

    def _picture(
        self, name: str, step: int, picture: Image.Image, layout: dict[str, Any] | None = None
    ) -> None:
        """Save and log a picture; its layout is in a file beside it, for who cuts it up."""
        file = f"{name}-{step:08d}.png"
        try:
            self.folder.write(file, png(picture))
            if layout is not None:
                self.folder.write_json(f"{name}-{step:08d}.json", layout)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            print_line(f"step {step:,}: {name} not saved. {error}")
            return
        self.tracker.image(name, step, f"samples/{file}")
