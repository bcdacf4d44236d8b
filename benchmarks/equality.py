"""Do 1, 2 and 4 workers, and a batch in parts, train the same? The largest differences, as figures.

    python benchmarks/equality.py            20 steps, in float64 and in float32
    python benchmarks/equality.py --steps 5

Each worker is a process of its own with gloo between them, reads its share of a prepared dataset
with the loader of a training, and does the steps of one (`do_step` of
`pipeline.training.gan_step`): order, captions, crops, noise and mismatched pairs are those of a
run. In float64 the inputs, which come in float32, are widened. The last line is JSON.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import Tensor, distributed

from pipeline.config import TrainConfig
from pipeline.data.dataset import PreparedDataset
from pipeline.data.loader import BatchReader
from pipeline.data.sample_order import SampleOrder
from pipeline.distributed import collective
from pipeline.preparation.config import PrepareConfig
from pipeline.preparation.prepare import prepare
from pipeline.preparation.sources.shapes import ShapesSource
from pipeline.training import gan_step
from ratgan.architectures import ARCHITECTURES
from ratgan.matcher import Choice
from ratgan.options import STANDARD
from ratgan.step import train_step

WAYS = ((1, 1), (1, 2), (2, 1), (2, 2), (4, 1), (4, 2))  # workers, parts of each one's share
KINDS = ("float64", "float32")
NETWORKS = ("generator", "discriminator", "average", "matcher")


def config_for(dataset: str, **optim: Any) -> TrainConfig:
    """Return the options of a small training with 12 images to a step."""
    return TrainConfig.model_validate(
        {
            "total_steps": 1000,
            "data": {"path": dataset, "flip": False},
            "model": {"image_size": 32, "base_channels": 2, "controller_dim": 8, "affine_dim": 8},
            "optim": {"batch_size": 12, **optim},
        }
    )


def train(config: TrainConfig, steps: int, *, precise: bool = True) -> dict[str, Tensor]:
    """Do this worker's part of the first steps of a training.

    Args:
        config: Of the run.
        steps: How many.
        precise: In float64, or else in float32.

    Returns:
        Losses of each step, [steps], and the weights after the last.
    """
    dataset = PreparedDataset(config.data.path)
    plan = SampleOrder(dataset.units("train"), config.optim.batch_size, config.seed)
    incoming = BatchReader(
        dataset,
        plan,
        rank=collective.rank(),
        world=collective.world(),
        image_size=config.model.image_size,
        flip=config.data.flip,
        threads=1,
        captions=True,
    )
    device = torch.device("cpu")
    gan = gan_step.build(config, dataset.transform.dim, device)
    trained = [name for name in NETWORKS if getattr(gan, name)]
    for network in trained if precise else ():
        getattr(gan, network).double()
    standard = ARCHITECTURES[STANDARD]
    ARCHITECTURES[STANDARD] = replace(standard, step=_widened if precise else train_step)
    losses: dict[str, list[Tensor]] = {}
    try:
        for step, batch in enumerate(incoming.batches(0, steps)):
            values = gan_step.do_step(
                gan, config, batch, dataset.transform, device, number=step, step=step
            )
            for key, value in values.items():
                if key.startswith("loss/"):
                    losses.setdefault(key, []).append(collective.mean(value))
    finally:
        ARCHITECTURES[STANDARD] = standard
    return {key: torch.stack(each) for key, each in losses.items()} | {
        f"{network}.{name}": parameter.detach()
        for network in trained
        for name, parameter in getattr(gan, network).named_parameters()
    }


def _widened(gan: Any, **inputs: Any) -> dict[str, Tensor]:
    """Do a step in float64 on inputs that are in float32."""
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            inputs[name] = value.double()
        elif isinstance(value, Choice):
            inputs[name] = replace(value, sentences=value.sentences.double())
    return train_step(gan, **inputs)


def in_process(rank: int, world: int, dataset: str, output: str, steps: int) -> None:
    """Train in each way of so many workers, in both precisions, and leave what came of it."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{output}/meeting-{world}", rank=rank, world_size=world
    )
    for workers, parts in WAYS:
        if workers != world:
            continue
        for kind in KINDS:
            config = config_for(dataset, accumulate=parts)
            result = train(config, steps, precise=kind == "float64")
            if rank == 0:
                torch.save(result, f"{output}/{workers}-{parts}-{kind}.pt")
    distributed.destroy_process_group()


def farthest(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Return the largest absolute difference of a loss in any step, and of a weight at the end."""
    far = {name: float((found[name] - value).abs().max()) for name, value in expected.items()}
    return {
        "losses": max(far[name] for name in far if name.startswith("loss/")),
        "weights": max(far[name] for name in far if not name.startswith("loss/")),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20)
    steps = parser.parse_args(arguments).steps
    result = []
    with tempfile.TemporaryDirectory() as folder:
        place = f"{folder}/shapes"
        prepare(
            PrepareConfig(
                source=ShapesSource(count=150, size=32, validation=0.2),
                output=place,
                image_size=32,
                margin=1.25,
                sentence_dim=16,
                rows_per_shard=50,
                row_group_rows=16,
            )
        )
        for workers in sorted({workers for workers, _ in WAYS}):
            work = (workers, place, folder, steps)
            mp.spawn(in_process, work, nprocs=workers)  # type: ignore[attr-defined,no-untyped-call]
        for kind in KINDS:
            alone = torch.load(f"{folder}/1-1-{kind}.pt", weights_only=True)
            for workers, parts in WAYS:
                found = torch.load(f"{folder}/{workers}-{parts}-{kind}.pt", weights_only=True)
                far = farthest(found, alone)
                result.append({"kind": kind, "workers": workers, "parts": parts, **far})
                print(
                    f"{kind}  {workers} workers, {parts} parts: losses within "
                    f"{far['losses']:.1e}, weights within {far['weights']:.1e}"
                )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
