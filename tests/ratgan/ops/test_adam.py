"""Adam that imports no compiler is torch's Adam."""

import subprocess
import sys

import torch

from ratgan.ops.adam import Adam

WITHOUT_COMPILER = """
import sys
import torch
from ratgan.ops.adam import Adam
layer = torch.nn.Linear(2, 1)
optimizer = Adam(layer.parameters())
optimizer.zero_grad()
layer(torch.ones(1, 2)).sum().backward()
optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
assert "torch._dynamo" not in sys.modules
"""


def test_its_steps_and_states_are_those_of_torch():
    options = {"lr": 0.01, "betas": (0.5, 0.9)}
    first, second = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3)
    second.load_state_dict(first.state_dict())
    ours = Adam(first.parameters(), **options)
    torchs = torch.optim.Adam(second.parameters(), fused=True, **options)

    for step in range(5):
        for layer, optimizer in ((first, ours), (second, torchs)):
            optimizer.zero_grad()
            layer(torch.full((2, 5), step + 1.0)).square().sum().backward()
            optimizer.step()

    assert torch.equal(first.weight, second.weight)
    assert first.weight.grad_fn is None
    assert ours.state_dict()["param_groups"] == torchs.state_dict()["param_groups"]
    moments = ours.state_dict()["state"][0]["exp_avg_sq"]
    assert torch.equal(moments, torchs.state_dict()["state"][0]["exp_avg_sq"])
    torchs.load_state_dict(ours.state_dict())
    ours.load_state_dict(torchs.state_dict())


def test_a_process_that_trains_imports_no_compiler():
    subprocess.run([sys.executable, "-c", WITHOUT_COMPILER], check=True)
