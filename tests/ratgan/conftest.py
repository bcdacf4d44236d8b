"""What tests of networks share: the numbers they draw."""

import pytest
import torch


@pytest.fixture(autouse=True)
def same_numbers():
    """Let each test draw the same random numbers, whichever tests were run before it."""
    torch.manual_seed(20)
