"""Numbers that the published RAT-GAN modules compute, and the weights and inputs they had.

`published_code.json` was made with the published code (commit f329763) on the CPU in
float64, at width 8, 256 px, batch 3, from weights and inputs that the rules below
rebuild. It holds shapes and numbers only, no code and no weights.
"""

import json
import math
import zlib
from pathlib import Path

import torch
from torch import Tensor

GOLDEN = json.loads(Path(__file__).with_name("published_code.json").read_text())


def golden_state(network: str) -> dict[str, Tensor]:
    """Rebuild the published state dict of `generator`, `discriminator` or `attention_head`."""
    state = {}
    for name, shape in GOLDEN["state_dict_shapes"][network].items():
        _, lstm, of_lstm = name.rpartition("lstm.")
        # Copies of the one LSTM have the values of the first.
        phase = zlib.crc32((f"block0.lstm.{of_lstm}" if lstm else name).encode()) % 1000 / 100
        count = math.prod(shape)
        wave = torch.sin(0.7 * torch.arange(count, dtype=torch.float64) + phase + GOLDEN["seed"])
        if count == 1:
            values = torch.full((1,), 0.5, dtype=torch.float64)
        elif len(shape) > 1:
            values = wave * 2.2 / math.sqrt(count // shape[0])
        else:
            values = 0.1 * wave
        state[name] = values.view(shape)
    return state


def golden_input(shape: tuple[int, ...], offset: int) -> Tensor:
    """Rebuild an input."""
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return (1.5 * torch.sin(1.3 * index**1.01 + GOLDEN["seed"] + offset)).view(shape)


def worst_relative_error(output: str, ours: Tensor) -> float:
    """Compare a tensor of ours with what the published code gave."""
    golden = GOLDEN["outputs"][output]
    if not isinstance(golden, dict):
        return abs(float(ours.detach()) - golden) / abs(golden)
    assert list(ours.shape) == golden["shape"]
    expected = torch.tensor(golden["value"], dtype=torch.float64)
    picked = ours.detach().flatten()[torch.tensor(golden["index"])]
    of_values = ((picked - expected).abs() / expected.abs()).max().item()
    of_mean = abs(ours.mean().item() - golden["mean"]) / abs(golden["mean"])
    of_spread = abs(ours.std().item() - golden["std"]) / golden["std"]
    return max(of_values, of_mean, of_spread)
