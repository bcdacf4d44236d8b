"""Compiled blocks: the same numbers and names, or a clear no."""

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from pipeline.training import device
from pipeline.training.device import compile_blocks
from ratgan.step import Gan, train_step
from tests.ratgan.networks import small_discriminator, small_generator
from tests.ratgan.test_step import small_batch

pytestmark = [pytest.mark.slow, pytest.mark.rest]

ROOT = Path(__file__).parents[3]


@pytest.mark.thorough
def test_compiled_blocks_compute_the_same_and_keep_the_names_of_their_weights():
    batch = {name: tensor.float() for name, tensor in small_batch().items()}
    plain, compiled = (Gan.create(small_generator(), small_discriminator()) for _ in range(2))
    try:
        compile_blocks(compiled.generator, torch.device("cpu"))
    except ValueError as error:
        pytest.skip(str(error))

    expected, values = (train_step(gan, **batch) for gan in (plain, compiled))

    for name, value in expected.items():
        torch.testing.assert_close(values[name], value, rtol=1e-4, atol=1e-6, msg=name)
    for ours, theirs in zip(
        compiled.generator.parameters(), plain.generator.parameters(), strict=True
    ):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-6)
    # So either reads the checkpoints of the other.
    assert list(compiled.generator.state_dict()) == list(plain.generator.state_dict())
    plain.generator.load_state_dict(compiled.generator.state_dict())
    compiled.generator.load_state_dict(plain.generator.state_dict())


def test_a_machine_that_cannot_compile_is_refused(tmp_path):
    code = (
        "import torch; from pipeline.training.device import compile_blocks; "
        "compile_blocks(None, torch.device('cpu'))"
    )
    environment = os.environ | {
        "CXX": str(tmp_path / "no-compiler"),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }

    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert "ValueError: compile=True, and torch cannot compile here" in done.stderr
    assert "apt install g++" in done.stderr


def test_compiled_code_is_kept_where_nobody_else_can_write(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "environ", {})
    place = tmp_path / f"torchinductor-{os.getuid()}"
    place.mkdir()
    place.chmod(0o777)

    with pytest.raises(ValueError, match=r"open to others.*TORCHINDUCTOR_CACHE_DIR"):
        device.keep_compiled_code()
    assert os.environ == {}

    place.rmdir()
    device.keep_compiled_code()

    assert os.environ == {device.COMPILED: str(place)}
    assert stat.S_IMODE(place.stat().st_mode) == 0o700

    os.environ[device.COMPILED] = "/mine"
    device.keep_compiled_code()

    assert os.environ == {device.COMPILED: "/mine"}
