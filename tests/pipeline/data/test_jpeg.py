"""JPEGs are decoded as torchvision decodes them, and its package is not imported for that."""

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import ImageReadMode
from torchvision.io import decode_jpeg as by_torchvision

from pipeline.data.jpeg import RGB, decode_jpeg
from tests.conftest import photo


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_pixels_are_those_of_torchvision_and_near_those_of_pillow(mode, subsampling):
    content = io.BytesIO()
    photo(72, 40, seed=subsampling).convert(mode).save(
        content, "JPEG", quality=90, subsampling=subsampling
    )
    data = torch.frombuffer(bytearray(content.getvalue()), dtype=torch.uint8)

    decoded = decode_jpeg(content.getvalue())

    assert ImageReadMode.RGB.value == RGB
    assert torch.equal(decoded, by_torchvision(data, mode=ImageReadMode.RGB))
    pillow = np.asarray(Image.open(content).convert("RGB")).transpose(2, 0, 1)
    assert np.abs(decoded.numpy().astype(int) - pillow).max() <= 2


def test_what_is_no_jpeg_is_an_error():
    with pytest.raises(RuntimeError, match="JPEG"):
        decode_jpeg(b"no picture")


@pytest.mark.rest
@pytest.mark.slow
def test_no_job_imports_the_package_at_its_start():
    jobs = "pipeline.training.train, pipeline.preparation.prepare, pipeline.evaluation.evaluate"

    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {jobs}; print('torchvision' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == "False"
