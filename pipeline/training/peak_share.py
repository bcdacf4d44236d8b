"""How fast a training could be at most: the peak of its GPUs over the operations of a step."""

from typing import Any

import torch

from pipeline.common.console import print_line
from pipeline.config import TrainConfig
from pipeline.distributed import collective
from pipeline.training.gan_step import matcher_of, networks
from ratgan.architectures import find_architecture
from ratgan.ops.op_counter import Counter, NoUpdate
from ratgan.options import Precision
from ratgan.step import Gan

# Dense products with sums in float32, bfloat16 and TF32, in 10¹² operations per second, by torch's
# name of a GPU; from NVIDIA's data sheets.
PEAKS = {
    "NVIDIA H200": (989, 494),
    "NVIDIA H100 80GB HBM3": (989, 494),
    "NVIDIA H100 PCIe": (756, 378),
    "NVIDIA A100-SXM4-40GB": (312, 156),
    "NVIDIA A100-SXM4-80GB": (312, 156),
    "NVIDIA A100-PCIE-40GB": (312, 156),
    "NVIDIA A100 80GB PCIe": (312, 156),
    "NVIDIA L40S": (362, 183),
    "NVIDIA L4": (121, 60),
    "NVIDIA GeForce RTX 4090": (165, 82),
    "NVIDIA GeForce RTX 3090": (71, 35),
}


def peak_flops(device: torch.device, precision: Precision, *, tf32: bool) -> float | None:
    """Return the operations per second of a device; None where they are not known."""
    if device.type != "cuda":
        return None
    peaks = PEAKS.get(torch.cuda.get_device_name(device))
    if peaks is None or (precision == "float32" and not tf32):
        return None
    return peaks[precision == "float32"] * 1e12


def peak_images_per_s(config: TrainConfig, sentence_dim: int, device: torch.device) -> float | None:
    """Return the images per second that all workers could train on if they only multiplied.

    Args:
        config: Of the run.
        sentence_dim: Size of the sentence vectors.
        device: Of each worker.

    Returns:
        None where the peak of the device is not known, or the step cannot be counted.
    """
    peak = peak_flops(device, config.precision, tf32=config.tf32)
    if peak is None:
        return None
    try:
        return peak * collective.world() / flops_per_image(config, sentence_dim)
    except Exception as error:  # the step of another architecture may need content, not shapes
        print_line(f"  the share of the GPU's peak is not logged: {error}")
        return None


def flops_per_image(config: TrainConfig, sentence_dim: int) -> float:
    """Count the operations of a worker's step, without those that `accumulate` repeats."""
    images = max(1, config.optim.batch_size // collective.world())
    with torch.device("meta"):
        pair = networks(config, sentence_dim)
        gan = Gan.create(*pair, matcher=matcher_of(config, sentence_dim))
        size = config.model.image_size
        batch: dict[str, Any] = {
            "images": torch.empty(images, 3, size, size),
            "sentences": torch.empty(images, sentence_dim),
            "mismatched": torch.empty(images, sentence_dim),
            "noise": torch.empty(images, config.model.noise_dim),
        }
        if gan.matcher:
            gan.matcher_optimizer = NoUpdate(gan.matcher.parameters())
            classes = torch.arange(config.optim.batch_size)
            captions = torch.empty(len(classes), sentence_dim)
            batch["choice"] = gan.matcher.choice(1.0, captions, classes, classes[:images])
        gan.generator_optimizer = NoUpdate(gan.generator.parameters())
        gan.discriminator_optimizer = NoUpdate(gan.discriminator.parameters())
        with Counter() as counter:
            find_architecture(config.model.architecture).step(
                gan, **batch, update=config.optim.update
            )
    return counter.flops / images
