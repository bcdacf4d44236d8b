"""Whether training repeats itself on a device: run twice, and resumed from a checkpoint half-way.

    python benchmarks/repeat.py --device cuda
    python benchmarks/repeat.py --device cpu --base-channels 8 --image-size 64

For each precision, with the fastest kernels and with deterministic ones (`--deterministic` of a
training). A difference is the farthest a weight of G or D is from that of
the first run, relative to the largest weight of its tensor. The last line is JSON.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.checkpoint import SENTENCE_DIM, STATE
from benchmarks.workload import awake
from pipeline.checkpoint.async_saver import Saver
from pipeline.checkpoint.gan_state import gan_files, gan_tensors, restore
from pipeline.config import Precision
from pipeline.storage.folder import Folder
from pipeline.training.device import configure_precision
from ratgan.discriminator import Discriminator
from ratgan.generator import Generator
from ratgan.ops.memory_format import placed
from ratgan.randomness import step_noise
from ratgan.step import Gan, train_step
from ratgan.text.transform import SentenceTransform


def build(options: argparse.Namespace) -> Gan:
    """Build networks whose paths are all awake, equal at each call."""
    torch.manual_seed(0)
    sizes = {"image_size": options.image_size, "base_channels": options.base_channels}
    generator = Generator(sentence_dim=SENTENCE_DIM, **sizes)
    discriminator = Discriminator(sentence_dim=SENTENCE_DIM, attention="soft_threshold", **sizes)
    for network in (generator, discriminator):
        awake(network)
    device = torch.device(options.device)
    return Gan.create(placed(generator, device), placed(discriminator, device))


def steps(gan: Gan, options: argparse.Namespace, precision: str, first: int, last: int) -> None:
    """Do steps whose batches are functions of their numbers."""
    for number in range(first, last):
        random = torch.Generator().manual_seed(number)
        images = torch.rand(
            options.batch_size, 3, options.image_size, options.image_size, generator=random
        )
        sentences = torch.randn(options.batch_size, SENTENCE_DIM, generator=random)
        with torch.autocast(options.device, torch.bfloat16, enabled=precision == "bfloat16"):
            train_step(
                gan,
                images=(images * 2 - 1).to(options.device),
                sentences=sentences.to(options.device),
                mismatched=sentences.roll(1, 0).to(options.device),
                noise=step_noise(0, number, options.batch_size, gan.generator.noise_dim).to(
                    options.device
                ),
            )


def weights(gan: Gan) -> dict[str, Tensor]:
    """Return copies of the weights of G and D."""
    return {
        f"{group}.{name}": tensor.detach().clone()
        for group in ("generator", "discriminator")
        for name, tensor in gan_tensors(gan)[group].items()
    }


def farthest(found: dict[str, Tensor], first: dict[str, Tensor]) -> float:
    """Return the largest relative difference; 0 only if all bits are equal."""
    return max(
        float((found[name] - tensor).abs().max() / tensor.abs().max().clamp(min=1e-6))
        for name, tensor in first.items()
    )


def compare(
    options: argparse.Namespace, precision: Precision, deterministic: bool
) -> dict[str, Any]:
    """Run twice, and a third time through a checkpoint, and compare."""
    exactness = configure_precision(
        precision, tf32=True, deterministic=deterministic, device=torch.device(options.device)
    )
    half = options.steps // 2
    whole = build(options)
    steps(whole, options, precision, 0, half)
    started = time.perf_counter()
    steps(whole, options, precision, half, options.steps)
    first = weights(whole)
    elapsed = time.perf_counter() - started
    again = build(options)
    steps(again, options, precision, 0, options.steps)
    resumed = build(options)
    steps(resumed, options, precision, 0, half)
    transform = SentenceTransform.identity(SENTENCE_DIM)
    with tempfile.TemporaryDirectory() as folder:
        with Saver(Folder(folder), keep=2) as saver:
            saver.save(
                half,
                gan_tensors(resumed),
                lambda groups, state: gan_files(groups, state, gan=resumed, transform=transform),
                STATE,
            )
        fresh = build(options)
        restore(Folder(folder) / f"step-{half:08d}", fresh)
    steps(fresh, options, precision, half, options.steps)
    return {
        "precision": precision,
        "deterministic": deterministic,
        "again": farthest(weights(again), first),
        "resumed": farthest(weights(fresh), first),
        "exactness": exactness,
        "ms_per_step": 1000 * elapsed / (options.steps - half),
    }


def main() -> None:
    """Run what the flags ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--base-channels", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=256, help="pixels")
    parser.add_argument("--batch-size", type=int, default=24)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    found = []
    for precision in get_args(Precision):
        for deterministic in (False, True):
            row = compare(options, precision, deterministic)
            found.append(row)
            print(
                f"{precision:9} {'deterministic' if deterministic else 'fastest':14} "
                f"again {row['again']:.1e}  resumed {row['resumed']:.1e}  "
                f"{row['ms_per_step']:.0f} ms/step",
                flush=True,
            )
    name = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    print(
        json.dumps(
            {"device": name, "torch": torch.__version__, "steps": options.steps, "rows": found}
        )
    )


if __name__ == "__main__":
    main()
