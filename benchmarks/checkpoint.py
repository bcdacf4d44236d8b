"""What a checkpoint costs: how long a step waits for it, and how long it takes to be committed.

    python benchmarks/checkpoint.py                       the paper's networks at 256 px, nf 32
    python benchmarks/checkpoint.py --base-channels 64    as wide as published
    python benchmarks/checkpoint.py --device cuda         with the networks on a GPU
    python benchmarks/checkpoint.py --folder /mnt/shared  on another disk

Background and synchronous saves take turns. Beside them runs what training is made of, matrix
products, to see what the writing thread takes away from it. The last line is JSON.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.checkpoint.async_saver import Saver
from pipeline.checkpoint.gan_state import gan_files, gan_tensors
from pipeline.storage.folder import Folder
from ratgan.discriminator import Discriminator
from ratgan.generator import Generator
from ratgan.step import Gan
from ratgan.text.transform import SentenceTransform

SENTENCE_DIM = 256
STATE = {
    "run": "benchmark",
    "dataset": "",
    "versions": {},
    "encoder": {"name": "minilm", "sha256": ""},
}


def build(base_channels: int, image_size: int, device: str) -> Gan:
    """Build networks with the moments of a first step, without the cost of one."""
    gan = Gan.create(
        Generator(image_size=image_size, sentence_dim=SENTENCE_DIM, base_channels=base_channels).to(
            device
        ),
        Discriminator(
            image_size=image_size, sentence_dim=SENTENCE_DIM, base_channels=base_channels
        ).to(device),
    )
    for network, optimizer in (
        (gan.generator, gan.generator_optimizer),
        (gan.discriminator, gan.discriminator_optimizer),
    ):
        for parameter in network.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return gan


def work(matrix: torch.Tensor) -> float:
    """Do a piece of work of the size of some layers, and return its seconds."""
    started = time.perf_counter()
    for _ in range(4):
        matrix @ matrix
    if matrix.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure(gan: Gan, folder: Folder, rounds: int, device: str) -> dict[str, float]:
    """Save by turns in the background and not, and time the parts.

    Returns:
        Medians over the rounds, and the shortest, which a busy machine disturbs least:
        milliseconds a step waits, seconds until the checkpoint is committed, and how much
        slower other work is in the meantime.
    """
    pack = partial(gan_files, gan=gan, transform=SentenceTransform.identity(SENTENCE_DIM))
    matrix = torch.randn(768, 768, device=device)
    alone = statistics.median(work(matrix) for _ in range(20))
    stalls: dict[bool, list[float]] = {True: [], False: []}
    wholes: dict[bool, list[float]] = {True: [], False: []}
    beside: list[float] = []
    with (
        Saver(folder / "background", keep=2) as background,
        Saver(folder / "synchronous", keep=2, background=False) as synchronous,
    ):
        for step in range(1, rounds + 2):
            for saver in (background, synchronous):
                started = time.perf_counter()
                saver.save(step, gan_tensors(gan), pack, STATE)
                stall = time.perf_counter() - started
                pieces = []
                while saver.thread is not None and saver.thread.is_alive():
                    pieces.append(work(matrix))
                if step > 1:  # the first one takes the memory
                    stalls[saver.background].append(stall)
                    wholes[saver.background].append(time.perf_counter() - started)
                    beside += pieces
                saver.check()
    slower = statistics.median(beside) / alone if beside else 1.0
    result = {}
    for name, held in (("background", True), ("synchronous", False)):
        for kind, choose in (("", statistics.median), ("_shortest", min)):
            result[f"stall_{name}_ms{kind}"] = 1000 * choose(stalls[held])
            result[f"whole_{name}_s{kind}"] = choose(wholes[held])
    return {**result, "work_beside_it_slower": slower}


def main() -> None:
    """Run what the flags ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base-channels", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=256, help="pixels")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--folder", help="where to write; default: the folder for temporary files")
    options = parser.parse_args()
    gan = build(options.base_channels, options.image_size, options.device)
    size = sum(t.nbytes for group in gan_tensors(gan).values() for t in group.values())
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        measured = measure(gan, Folder(folder), options.rounds, options.device)
    result = {
        "base_channels": options.base_channels,
        "image_size": options.image_size,
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "checkpoint_mib": size / 2**20,
        **measured,
    }
    for name, value in result.items():
        print(f"{name:32} {value if isinstance(value, str) else format(value, '10.2f')}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
