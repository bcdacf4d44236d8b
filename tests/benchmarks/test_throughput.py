"""The GPU benchmark, run through without a GPU."""

import json

import pytest
import torch

from benchmarks import throughput


@pytest.fixture
def settings():
    """Take back what the benchmark sets for all of its process."""
    precision, benchmark = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    yield
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.benchmark = benchmark


@pytest.mark.rest
@pytest.mark.usefixtures("settings")
def test_every_way_is_measured_or_left_out_with_its_reason(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(throughput, "WARM_UP", 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda block: None)  # takes half a minute

    result = throughput.write_throughput(
        tmp_path, device="cpu", batch_sizes=[2], steps=1, base_channels=2
    )

    (written,) = tmp_path.iterdir()
    assert json.loads(written.read_text()) == result
    assert {"device", "date", "commit", "ceiling_tflops"} <= result.keys()
    by_way = {measured["way"]: measured for measured in result["measurements"]}
    assert len(by_way) == 7
    assert all(by_way[way]["images_per_s"] > 0 for way in ("reference", "ours, eager"))
    # bfloat16 changes the losses of the same step by no more than its rounding.
    expected, losses = by_way["reference"]["losses"], by_way["ours, eager"]["losses"]
    assert losses["loss/discriminator"] == pytest.approx(expected["loss/discriminator"], rel=0.01)
    assert "needs a CUDA device" in by_way["ours, CUDA graph"]["failed"]
    assert "left out: RuntimeError: a CUDA graph needs" in capsys.readouterr().out
