"""The share of a GPU's peak: operations of a step, and GPUs that are known."""

import pytest
import torch

from pipeline.config import TrainConfig
from pipeline.training import peak_share
from pipeline.training.gan_step import build
from pipeline.training.peak_share import flops_per_image, peak_images_per_s
from ratgan.ops.op_counter import Counter
from ratgan.step import train_step

CUDA = torch.device("cuda")
SMALL = TrainConfig(
    total_steps=1,
    model={"image_size": 32, "base_channels": 2, "controller_dim": 8, "affine_dim": 8},
    optim={"batch_size": 12, "accumulate": 2},
)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_operations_are_those_that_a_step_does(weight):
    config = SMALL.model_copy(
        update={"optim": SMALL.optim.model_copy(update={"matching_weight": weight})}
    )
    gan = build(config, 16, torch.device("cpu"))
    images = torch.arange(12)
    choice = gan.matcher and gan.matcher.choice(weight, torch.randn(12, 16), images, images)
    with Counter() as counter:
        train_step(
            gan,
            images=torch.rand(12, 3, 32, 32),
            sentences=torch.randn(12, 16),
            mismatched=torch.randn(12, 16),
            noise=torch.randn(12, 100),
            choice=choice,
        )

    # Here the controller's steps are one operation, and on the meta device one by one.
    assert flops_per_image(config, 16) == pytest.approx(counter.flops / 12, rel=0.01)


@pytest.mark.parametrize(
    ("name", "changes", "tera"),
    [
        ("NVIDIA H200", {"precision": "bfloat16"}, 989),
        ("NVIDIA H200", {"precision": "float32"}, 494),
        ("NVIDIA H200", {"precision": "float32", "tf32": False}, None),
        ("NVIDIA H200 NVL", {"precision": "bfloat16"}, None),
    ],
)
def test_the_peak_is_that_of_the_precision_where_it_is_known(monkeypatch, name, changes, tera):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(peak_share.collective, "world", lambda: 2)
    config = SMALL.model_copy(update=changes)

    expected = None if tera is None else 2 * tera * 1e12 / flops_per_image(SMALL, 16)
    assert peak_images_per_s(config, 16, CUDA) == expected
    assert peak_images_per_s(config, 16, torch.device("cpu")) is None


def test_a_step_that_cannot_be_counted_has_no_share(monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("needs numbers")

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA L4")
    monkeypatch.setattr(peak_share, "networks", fail)

    assert peak_images_per_s(SMALL, 16, CUDA) is None
    assert "share of the GPU's peak is not logged: needs numbers" in capsys.readouterr().out
