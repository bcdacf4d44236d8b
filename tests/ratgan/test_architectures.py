"""Every architecture can be built, trained, saved and loaded by its entry alone."""

import inspect
import json
from dataclasses import replace

import pytest
import torch

import ratgan
from pipeline.config import ModelConfig
from ratgan.architectures import ARCHITECTURES, architecture_of, find_architecture
from ratgan.options import STANDARD, STANDARD_OPTIONS
from ratgan.sampling import sample
from ratgan.step import Gan
from ratgan.text.transform import SentenceTransform
from ratgan.weights.saved_model import load_discriminator, pack_discriminator, pack_model
from tests.ratgan.networks import awake, small_generator

OPTIONS = {"image_size": 32, "base_channels": 2}
SENTENCE_DIM = 9


def build(name):
    torch.manual_seed(3)
    options = ModelConfig(architecture=name, **OPTIONS).model_dump()
    return find_architecture(name).build(options, SENTENCE_DIM)


@pytest.fixture(params=sorted(ARCHITECTURES))
def name(request) -> str:
    return request.param


def test_the_listed_options_of_the_standard_architecture_are_those_of_its_networks():
    architecture = find_architecture(STANDARD)

    assert architecture.options() == STANDARD_OPTIONS
    assert "views" in inspect.signature(architecture.step).parameters  # what --augment needs


def test_a_step_updates_both_networks(name):
    gan = Gan.create(*(awake(network) for network in build(name)))
    before = [parameter.clone() for parameter in gan.generator.parameters()]
    sentences = torch.randn(4, SENTENCE_DIM)

    values = find_architecture(name).step(
        gan,
        images=torch.rand(4, 3, 32, 32) * 2 - 1,
        sentences=sentences,
        mismatched=sentences.roll(1, 0),
        noise=torch.randn(4, gan.generator.noise_dim),
    )

    assert values["health/skipped"] == 0
    assert all(value.isfinite() for value in values.values())
    changed = [not a.equal(b) for a, b in zip(before, gan.generator.parameters(), strict=True)]
    assert all(changed)


def test_saved_networks_are_the_same_when_loaded(name, tmp_path):
    generator, discriminator = (awake(network) for network in build(name))
    transform = SentenceTransform(torch.zeros(20), torch.eye(20, SENTENCE_DIM), "whitening")
    encoder = {"name": "shapes", "sha256": "0" * 64}
    files = pack_model(generator, transform, encoder, {}) | pack_discriminator(discriminator)
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    sentences = torch.randn(2, SENTENCE_DIM)
    noise = torch.randn(2, generator.noise_dim)

    loaded = ratgan.load(tmp_path).generator
    judge = load_discriminator(tmp_path)

    assert [architecture_of(network) for network in (loaded, judge)] == [name, name]
    images = sample(loaded, sentences, noise)
    assert images.equal(sample(generator, sentences, noise))
    (logits,), (expected,) = (d(images / 127.5 - 1, sentences) for d in (judge, discriminator))
    assert logits.equal(expected)


def test_a_record_names_an_architecture_only_if_it_is_not_the_standard_one(monkeypatch):
    class Other(type(small_generator())):
        pass

    other = replace(ARCHITECTURES[STANDARD], generator=Other)
    monkeypatch.setitem(ARCHITECTURES, "other", other)
    standard = small_generator()
    transform = SentenceTransform(torch.zeros(9), torch.eye(9), "whitening")

    records = [
        json.loads(pack_model(each, transform, {}, {})["model.json"])
        for each in (standard, Other(**standard.arguments))
    ]

    assert [record.get("architecture") for record in records] == [None, "other"]


def test_what_is_not_registered_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="architecture='big-gan' must be one of rat-gan"):
        find_architecture("big-gan")
    with pytest.raises(ValueError, match="Linear belongs to no entry of ARCHITECTURES"):
        architecture_of(torch.nn.Linear(1, 1))


def test_an_option_that_an_architecture_does_not_take_is_refused(monkeypatch):
    class Fixed(ARCHITECTURES[STANDARD].discriminator):
        def __init__(self, image_size, sentence_dim, base_channels):
            super().__init__(image_size, sentence_dim, base_channels, "none")

    fixed = replace(ARCHITECTURES[STANDARD], discriminator=Fixed)
    monkeypatch.setitem(ARCHITECTURES, "fixed", fixed)

    with pytest.raises(ValueError, match="attention=softmax: no option of architecture fixed"):
        ModelConfig(architecture="fixed", attention="softmax")
    assert ModelConfig(architecture="fixed", controller_dim=8).controller_dim == 8
