"""Image branches: their shapes, what is frozen, and that an image's company does not matter."""

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import inception_v3

from ratgan.text.image_branch import InceptionBranch, SmallBranch, read_inception


@pytest.fixture(scope="module")
def inception_state():
    torch.manual_seed(0)
    return inception_v3(weights=None, aux_logits=True, init_weights=False).state_dict()


@pytest.mark.parametrize("size", [32, 48, 64])
def test_the_small_branch_gives_regions_and_a_whole(size):
    regions, whole = SmallBranch(dim=10, channels=8)(torch.zeros(2, 3, size, size))

    assert regions.shape == (2, 64, 10)
    assert whole.shape == (2, 10)


def test_the_small_branch_sees_an_image_alone_as_in_a_batch():
    torch.manual_seed(0)
    branch = SmallBranch(dim=10, channels=8).train()
    images = torch.rand(3, 3, 32, 32) * 2 - 1

    together = branch(images)

    for part, alone in zip(together, branch(images[1:2]), strict=True):
        torch.testing.assert_close(part[1:2], alone, rtol=0, atol=1e-5)


def test_the_small_branch_knows_where_something_is():
    torch.manual_seed(0)
    branch = SmallBranch(dim=10, channels=8)
    regions = branch(torch.zeros(1, 3, 32, 32))[0][0].view(8, 8, 10)

    assert (regions[2, 2] - regions[5, 5]).abs().max() > 1e-3


def test_inception_is_frozen_and_its_two_projections_are_those_of_attngan(inception_state):
    branch = InceptionBranch(inception_state).train()

    regions, whole = branch(torch.rand(2, 3, 64, 64) * 2 - 1)
    (regions.sum() + whole.sum()).backward()

    trained = {n: p for n, p in branch.named_parameters() if p.requires_grad}
    assert regions.shape == (2, 289, 256)
    assert whole.shape == (2, 256)
    assert sorted(trained) == ["to_regions.weight", "to_whole.bias", "to_whole.weight"]
    assert sum(p.numel() for p in trained.values()) == 721_152
    assert all(p.grad is not None for p in trained.values())
    moved = dict(branch.until_regions.named_buffers())["0.bn.running_mean"]
    assert torch.equal(moved, inception_state["Conv2d_1a_3x3.bn.running_mean"])


def test_the_whole_is_the_pool_that_torchvision_computes(inception_state):
    branch = InceptionBranch(inception_state).eval()
    network = inception_v3(weights=None, init_weights=False, transform_input=False)
    network.load_state_dict(inception_state)
    network.fc = torch.nn.Identity()
    images = torch.rand(1, 3, 299, 299) * 2 - 1

    with torch.no_grad():
        _, whole = branch(images)

        expected = branch.to_whole(network.eval()(images))
    torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-4)


def test_inception_weights_are_read_from_either_kind_of_file(inception_state, tmp_path):
    save_file(inception_state, tmp_path / "w.safetensors")
    torch.save(inception_state, tmp_path / "w.pth")

    for name in ("w.safetensors", "w.pth"):
        read = read_inception(tmp_path / name)
        assert torch.equal(read["fc.bias"], inception_state["fc.bias"])
    (tmp_path / "bad.pth").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"bad\.pth is text, not weights"):
        read_inception(tmp_path / "bad.pth")
    with pytest.raises(FileNotFoundError, match="nowhere do not exist"):
        read_inception(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"Inception-v3 weights does not fit .*missing Conv2d_1a"):
        InceptionBranch({"fc.weight": torch.zeros(1)})
