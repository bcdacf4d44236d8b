"""Rank-0 console, metric and sample logging."""

import math

import torch
from PIL import Image

from pipeline.common.console import duration, print_line
from pipeline.config import TrainConfig
from pipeline.data.dataset import Example, PreparedDataset
from pipeline.evaluation.quick_evaluation import said
from pipeline.storage.local_disk import NO_ROOM
from pipeline.tracking.tracker import Tracker
from pipeline.training.diagnostics import CollapseDetector, StragglerDetector
from pipeline.training.loop import Job
from ratgan.randomness import sample_noise
from ratgan.sampling import sample
from ratgan.step import Gan
from ratgan.visualize import attention_overlay, grid, png


class Reporter:
    """Logs for rank 0: a line on the console, metrics, sample grids.

    Args:
        config: Resolved options.
        job: Where to report.
        dataset: Gives the captions of the samples.
        device: The generator's.
    """

    def __init__(
        self, config: TrainConfig, job: Job, dataset: PreparedDataset, device: torch.device
    ) -> None:
        self.tracker = Tracker(job.folder)
        self.folder = job.folder / "samples"
        self.folder.remove_abandoned()  # by a worker that was lost in this same start
        self.device = device
        self.attention = config.model.attention != "none"
        split = "validation" if dataset.manifest.rows("validation") else "train"
        examples: list[Example] = dataset.examples(split, config.samples)
        self.captions = [example.caption for example in examples]
        self.collapse = CollapseDetector(
            self._warn, torch.stack([example.image for example in examples])
        )
        self.stragglers = StragglerDetector(self._warn)
        self.sentences = torch.stack([example.sentence for example in examples])
        self.noise = sample_noise(config.seed, len(examples), config.model.noise_dim)
        # Small pictures are shown larger, so that they can be seen and their captions read.
        self.scale = max(1, 128 // config.model.image_size)

    def line(self, step: int, last: int, measured: dict[str, float]) -> None:
        """Say how it goes and log it."""
        speed = measured["speed/images_per_s"]
        per_step = measured["images_seen"] / step
        memory = measured.get("memory/gpu_peak_gib", measured["memory/process_gib"])
        print_line(
            f"step {step:,}/{last:,}  images {measured['images_seen']:,.0f}  "
            f"D {measured['loss/discriminator']:.3f}  G {measured['loss/generator']:+.3f}  "
            f"penalty {measured['loss/penalty']:.3f}  {speed:.1f} img/s  "
            f"data wait {measured['speed/data_wait_share']:.0%}  mem {memory:.1f} GiB  "
            f"ETA {duration((last - step) * per_step / speed)}" + said(measured)
        )
        measured |= self.collapse.interval(step, measured)
        finite = {name: value for name, value in measured.items() if math.isfinite(value)}
        self.tracker.metrics(step, finite)

    def went_back(self, reached: int, step: int, skips: int) -> None:
        """Say that the run went back to an earlier step; its curves keep what they have."""
        print_line(
            f"step {reached:,}: the last {skips:,} steps had losses or gradients not finite. "
            f"Back to step {step:,}, and on with the batches after them"
        )
        self.tracker.tag("health.rollback", f"step {reached} to step {step}")

    def _warn(self, tag: str, value: str, text: str) -> None:
        print_line(f"warning: {text}")
        self.tracker.tag(tag, value)

    def sample(self, gan: Gan, step: int) -> None:
        """Draw the fixed captions from the fixed noise with the averaged generator."""
        images = sample(gan.average, self.sentences, self.noise)
        picture = grid(images, self.captions, scale=self.scale)
        self._picture("samples", step, picture)
        seen = self.collapse.samples(step, images)
        if seen:
            self.tracker.metrics(step, seen)
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
        try:
            self.folder.write(file, png(picture))
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            print_line(f"step {step:,}: no {name} drawn. {error}")
            return
        self.tracker.image(name, step, f"samples/{file}")
