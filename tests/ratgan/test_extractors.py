"""Extractors through their real loading, with random weights in the published shapes."""

import hashlib
import warnings
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.models import inception_v3

from ratgan.metrics.builtin import DIM, BuiltIn
from ratgan.metrics.extractors import load_extractor
from ratgan.metrics.features import Extractor
from ratgan.metrics.frechet import frechet_distance
from ratgan.metrics.inception import FORMS
from ratgan.metrics.resizing import RESIZES, resize
from ratgan.metrics.statistics import FeatureStatistics
from tests.ratgan.extractor_weights import write_dinov2, write_inception, write_whole_clip

BUILTIN_SHA256 = "df438134bd5019b2e4d1c8ac3ff083deaaeee95019eeac4624c098f67b91f791"


def pictures(count: int = 3, size: int = 40) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size + 7), generator=draw).float()


@pytest.fixture(scope="module")
def inception(tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    return path, write_inception(path)


@pytest.fixture(scope="module")
def forms(inception) -> dict[str, Extractor]:
    """The three forms of Inception-v3, all with the same weights and the same resizing."""
    return {form: load_extractor(form, inception[0], rule="bilinear") for form in FORMS}


def test_inception_2015_is_the_network_of_torch_fidelity(inception):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path, _ = inception
    theirs = FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"], str(path))
    images = pictures(2)

    ours = load_extractor("inception-2015", path)(images)

    vectors, logits = theirs(images.to(torch.uint8))
    assert vectors.std() > 0.01, "random weights that pass nothing on would show nothing"
    torch.testing.assert_close(ours.vectors, vectors, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.logits, logits, rtol=1e-4, atol=1e-5)


def test_inception_torchvision_is_the_network_of_torchvision(inception, forms):
    with torch.device("meta"):
        theirs = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
    theirs.load_state_dict(inception[1], assign=True)
    images = pictures(2)

    ours = forms["inception-torchvision"](images)

    with torch.no_grad():
        logits = theirs.eval()(resize(images, 299, "bilinear") / 127.5 - 1)
    torch.testing.assert_close(ours.logits, logits, rtol=1e-4, atol=1e-5)
    assert ours.vectors.shape == (2, 2048)


def test_the_three_forms_of_inception_see_different_things_with_the_same_weights(forms):
    seen = {form: extractor(pictures(1)) for form, extractor in forms.items()}

    vectors = [features.vectors for features in seen.values()]
    distances = [float((a - b).norm() / a.norm()) for a, b in combinations(vectors, 2)]
    assert len(distances) == 3
    assert min(distances) > 1e-3
    assert seen["inception-slim"].logits.shape == (1, 1007), "its kind 0 is no kind of image"
    assert seen["inception-2015"].logits.shape == (1, 1008)


def test_a_file_of_safetensors_gives_the_same_and_has_its_own_hash(inception, forms, tmp_path):
    state = inception[1]
    copy = tmp_path / "inception.safetensors"
    # Without the counts that old files do not have, and with the heads that others have.
    kept = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
    save_file(kept | {"AuxLogits.fc.bias": torch.zeros(1000)}, copy)
    images = pictures(1)

    first = forms["inception-2015"]
    second = load_extractor("inception-2015", copy, rule="bilinear")

    assert torch.equal(first(images).vectors, second(images).vectors)
    assert second.sha256 == hashlib.sha256(copy.read_bytes()).hexdigest() != first.sha256
    assert not first.published, "random weights are not the published ones"


@pytest.mark.parametrize("name", ["builtin", "inception-2015", "dinov2", "clip"])
def test_extractors_see_an_image_alone_as_in_a_batch(name, forms, tmp_path):
    makers = {"dinov2": write_dinov2, "clip": write_whole_clip}
    weights = makers[name](tmp_path / name) if name in makers else None
    extractor = forms[name] if name in forms else load_extractor(name, weights)
    images = pictures()

    together, alone = extractor(images), extractor(images[1:2])

    assert (extractor.name, together.vectors.shape) == (name, (3, extractor.dim))
    assert together.vectors.dtype == torch.float32
    assert (together.logits is not None) == extractor.has_logits
    torch.testing.assert_close(together.vectors[1:2], alone.vectors, rtol=1e-3, atol=1e-4)


def test_dinov2_is_the_normalized_class_token(tmp_path):
    from transformers import Dinov2Model

    folder = write_dinov2(tmp_path / "dinov2")
    images = pictures(1)

    ours = load_extractor("dinov2", folder)(images).vectors

    pixels = resize(images, 224, "bicubic") / 255
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (pixels - mean[:, None, None]) / deviation[:, None, None]
    with torch.no_grad():
        states = Dinov2Model.from_pretrained(folder)(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(ours, states[:, 0])


def test_the_hash_of_a_folder_follows_its_weights(tmp_path):
    same, again, other = (
        load_extractor("dinov2", write_dinov2(tmp_path / str(n), seed)).sha256
        for n, seed in enumerate((0, 0, 1))
    )

    assert same == again != other


REFUSED = {
    "unknown": (("vgg", None), {}, "extractor 'vgg' is not known; choose one of: builtin"),
    "no weights": (
        ("inception-2015", None),
        {},
        r"needs its weights, and nothing is downloaded.*pt_inception-2015-12-05-6726825d\.pth",
    ),
    "no use": (("builtin", "x"), {}, "builtin has no weights to load; 'x' has no use"),
    "one way only": (("builtin", None), {"rule": "bicubic"}, "resizes by 'antialias' only"),
    "another hash": (("builtin", None), {"sha256": "6726825d"}, "and 6726825d was asked for"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_loaded_is_refused_with_what_to_do(case):
    arguments, options, message = REFUSED[case]

    with pytest.raises(ValueError, match=message):
        load_extractor(*arguments, **options)


def test_missing_and_foreign_files_are_refused(tmp_path):
    (tmp_path / "page.pth").write_bytes(b"<html>")
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save({"epoch": 3, "model": {}}, tmp_path / "checkpoint.pth")

    def load(name: str, extractor: str = "inception-2015") -> None:
        load_extractor(extractor, tmp_path / name)

    with pytest.raises(FileNotFoundError, match=r"the weights for inception-2015 .*nowhere\.pth"):
        load("nowhere.pth")
    with pytest.raises(ValueError, match=r"page\.pth is a web page, not weights"):
        load("page.pth")
    with pytest.raises(ValueError, match=r"checkpoint\.pth is not a state dict"):
        load("checkpoint.pth")
    with pytest.raises(ValueError, match="does not fit the network: missing Conv2d_1a"):
        load("other.pth")
    for extractor in ("clip", "dinov2"):
        with pytest.raises(FileNotFoundError, match="Nothing is downloaded here"):
            load("nowhere", extractor)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_folder_with_a_pointer_in_place_of_a_file_is_said_to_have_one(tmp_path, file):
    folder = tmp_path / "dinov2"
    write_dinov2(folder)
    (folder / file).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")

    with pytest.raises(ValueError, match=f"{file} is a pointer of git-lfs.* Run git lfs pull"):
        load_extractor("dinov2", folder)


def test_resizing_is_that_of_the_libraries_it_is_named_for():
    from torch_fidelity.interpolate_compat_tensorflow import (
        interpolate_bilinear_2d_like_tensorflow1x as tensorflow,
    )

    for size in (40, 350):
        images = pictures(2, size)
        channels = images[0].numpy()
        ways = {
            "tensorflow": tensorflow(images, (299, 299), align_corners=False)[0],
            "bicubic": np.stack(
                [
                    np.asarray(Image.fromarray(c).resize((299, 299), Image.Resampling.BICUBIC))
                    for c in channels
                ]
            ),
            "pillow": np.asarray(
                Image.fromarray(channels.astype(np.uint8).transpose(1, 2, 0)).resize(
                    (299, 299), Image.Resampling.BILINEAR
                )
            ).transpose(2, 0, 1),
            "bilinear": torch.nn.functional.interpolate(images, (299, 299), mode="bilinear")[0],
        }
        # Steps of 255: the first and the third are exact, the second rounds its weights.
        limits = {"tensorflow": 1e-4, "bicubic": 0.02, "pillow": 0, "bilinear": 1e-4}
        for rule, expected in ways.items():
            ours = resize(images, 299, rule)[0].numpy()
            assert np.abs(ours - np.asarray(expected, dtype=np.float32)).max() <= limits[rule], rule
    resized = [resize(pictures(1, 350), 299, rule) for rule in RESIZES]
    apart = [float((a - b).abs().mean()) for a, b in combinations(resized, 2)]
    assert len(apart) == 10
    assert min(apart) > 0.1, "no two rules are the same"


def test_the_builtin_extractor_is_the_same_everywhere():
    digest = BuiltIn().sha256

    # If this changes, no distance measured before compares with one measured after.
    assert digest == BUILTIN_SHA256
    assert DIM == BuiltIn()(pictures(1)).vectors.shape[1] == 182


def test_builtin_distances_grow_with_what_is_wrong_with_images():
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(240, 3, 6, 6, generator=draw) * 255
    images = torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic").clamp(0, 255)
    real, held_out = images[:120], images[120:]

    def distance(shown: torch.Tensor) -> float:
        seen = BuiltIn()(shown).vectors, BuiltIn()(real).vectors
        return frechet_distance(*map(FeatureStatistics.of, seen))

    alike = distance(held_out)
    noise = torch.randn(held_out.shape, generator=draw)
    blurred = torch.nn.functional.avg_pool2d(held_out, 5, 1, 2)
    assert alike < distance(held_out + 4 * noise) < distance(held_out + 12 * noise)
    assert 2 * alike < distance(blurred)
    assert 2 * alike < distance(held_out[:4].repeat(30, 1, 1, 1)), "four images, again and again"
    assert 2 * alike < distance(held_out.mean(1, keepdim=True).expand(-1, 3, -1, -1)), "no colours"


def test_loading_warns_of_nothing(tmp_path):
    place = write_whole_clip(tmp_path / "clip")
    load_extractor("clip", place)  # libraries may warn where they are imported, which is done once

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_extractor("clip", place)
