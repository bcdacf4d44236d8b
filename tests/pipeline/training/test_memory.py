"""What a run says when a step does not fit into memory."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.config import TrainConfig
from pipeline.training.device import explained, smaller_parts

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("share", "accumulate", "expected"),
    [
        (24, 1, 2),
        (24, 2, 4),
        (24, 4, 8),
        (9, 1, 3),
        (7, 1, 7),
        (2, 1, 2),
        (1, 1, None),
        (6, 6, None),
    ],
)
def test_proposed_parts_divide_the_share_and_are_at_most_half_as_large(share, accumulate, expected):
    assert smaller_parts(share, accumulate) == expected


def test_lack_of_memory_says_how_to_train_the_same_batch():
    message = (
        r"cpu has no memory left.*optim\.batch_size=48 gives each of 2 workers 24 images, 12 of "
        r"them at once \(optim\.accumulate=2\)\. Use --optim\.accumulate 4.*parts of 6"
    )

    with (
        pytest.raises(ValueError, match=message),
        explained(batch_size=48, workers=2, accumulate=2, device=torch.device("cpu")),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory.")


LIMITED = """
import resource, torch
from pipeline.training.device import explained
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
with explained(batch_size=4, workers=1, accumulate=1, device=torch.device("cpu")):
    torch.zeros(2**28)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is kept on Linux only")
def test_a_process_that_may_have_no_more_memory_says_so_too():
    done = subprocess.run(
        [sys.executable, "-c", LIMITED], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert "ValueError: cpu has no memory left" in done.stderr
    assert "Use --optim.accumulate 2" in done.stderr


def test_lack_of_memory_on_a_gpu_says_how_much_is_in_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 24 * 2**30))

    with (
        pytest.raises(ValueError, match=r"cuda:1 has no memory.*; 23\.0 of 24\.0 GiB are in use"),
        explained(batch_size=24, workers=1, accumulate=1, device=torch.device("cuda:1")),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory.")


def test_one_image_that_does_not_fit_asks_for_a_smaller_network():
    with (
        pytest.raises(
            ValueError, match=r"No part is smaller than one image.*--model.base-channels"
        ),
        explained(batch_size=6, workers=1, accumulate=6, device=torch.device("cpu")),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory.")


def test_other_errors_stay_what_they_are():
    with (
        pytest.raises(KeyError),
        explained(batch_size=6, workers=1, accumulate=1, device=torch.device("cpu")),
    ):
        raise KeyError("something else")


def test_more_parts_than_images_are_refused_by_the_options():
    with pytest.raises(
        ValueError, match=r"optim\.accumulate=7 is more than the 6 images.*6 is the"
    ):
        TrainConfig(total_steps=1, workers=4, optim={"batch_size": 24, "accumulate": 7})
