"""The importer, and through it our networks against the numbers of the published code."""

import re

import pytest
import torch

from ratgan.losses import (
    discriminator_hinge_loss,
    generator_hinge_loss,
    matching_aware_gradient_penalty,
)
from ratgan.weights.published import import_discriminator, import_generator, read_state_dict
from tests.ratgan.golden import GOLDEN, golden_input, golden_state, worst_relative_error

TOLERANCE = 1e-9


@pytest.fixture(scope="module")
def generator():
    return import_generator(golden_state("generator"), affines_per_block=4)[0]


@pytest.fixture(scope="module")
def discriminator():
    return import_discriminator(golden_state("discriminator"))[0]


def attention_state() -> dict[str, torch.Tensor]:
    """As the published code had it: an unused last block, and a head with a block of its own."""
    trunk = {n: t for n, t in golden_state("discriminator").items() if "COND_DNET" not in n}
    return trunk | {f"COND_DNET.{n}": t for n, t in golden_state("attention_head").items()}


@pytest.fixture(scope="module")
def generated(generator):
    with torch.no_grad():
        return generator(golden_input((3, 100), 1), golden_input((3, 256), 2))


@pytest.fixture(scope="module")
def images():
    return golden_input((3, 3, 256, 256), 3).tanh()


SENTENCES = golden_input((3, 256), 2)


def test_generator_draws_the_published_image(generated):
    assert worst_relative_error("generator_image", generated) <= TOLERANCE


def test_discriminator_gives_the_published_features_and_logits(discriminator, images):
    with torch.no_grad():
        features = discriminator.features(images)
        logits = discriminator.head(features, SENTENCES)

    assert worst_relative_error("discriminator_features", features) <= TOLERANCE
    assert worst_relative_error("plain_head_logits", logits.view(3, 1, 1, 1)) <= TOLERANCE


def test_attention_head_gives_the_published_weights_and_logits():
    discriminator, _ = import_discriminator(attention_state())
    features = golden_input((3, 128, 8, 8), 4)

    with torch.no_grad():
        weights = discriminator.head.attention(features, SENTENCES)
        logits = discriminator.head(features, SENTENCES)

    assert worst_relative_error("attention_weights", weights) <= TOLERANCE
    assert worst_relative_error("attention_head_logits", logits.view(3, 1, 1, 1)) <= TOLERANCE


def test_losses_and_penalty_are_the_published_ones(discriminator, images, generated):
    real_images, sentences = images.clone().requires_grad_(), SENTENCES.clone().requires_grad_()
    (real,) = discriminator(real_images, sentences)
    (mismatched,) = discriminator(images[:-1], SENTENCES[1:])
    (judged,) = discriminator(generated, SENTENCES)

    hinge = discriminator_hinge_loss(real, judged, mismatched)
    penalty = matching_aware_gradient_penalty(real, real_images, sentences)

    assert worst_relative_error("hinge_loss_D", hinge) <= TOLERANCE
    assert worst_relative_error("penalty_times_2", penalty) <= TOLERANCE
    assert worst_relative_error("generator_loss", generator_hinge_loss(judged)) <= TOLERANCE


def test_every_published_tensor_is_accounted_for():
    state = golden_state("generator")

    generator, report = import_generator(state, affines_per_block=4)

    used = [name for names in report.used.values() for name in names]
    assert sorted([*used, *report.repeated, *report.unused]) == sorted(state)
    assert len(report.repeated) == 7 * 7
    assert all(re.search(r"affine[45]|fea_l", name) for name in report.unused)
    assert set(report.used) == set(generator.state_dict())
    assert "left out" in str(report)


def test_names_with_module_before_them_are_the_same(generator):
    state = {f"module.{name}": tensor for name, tensor in golden_state("generator").items()}

    again, _ = import_generator(state, affines_per_block=4)

    for ours, theirs in zip(generator.parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def untrained(state: dict[str, torch.Tensor], blocks: str) -> dict[str, torch.Tensor]:
    """Put the fifth and sixth affine block of some blocks back to how they start."""
    state = dict(state)
    for name in state:
        if re.match(rf"block[{blocks}]\.affine[45]\.fc_(gamma|beta)\.linear2", name):
            start = 1.0 if "gamma.linear2.bias" in name else 0.0
            state[name] = torch.full_like(state[name], start)
    return state


@pytest.mark.parametrize(("blocks", "steps"), [("0-6", 28), ("9", 42)])
def test_four_and_six_affines_are_told_apart_by_what_was_trained(blocks, steps):
    generator, _ = import_generator(untrained(golden_state("generator"), blocks))

    assert generator.num_steps == steps


def test_weights_of_which_it_cannot_be_told_are_refused():
    state = untrained(golden_state("generator"), "0-3")

    with pytest.raises(ValueError, match=r"6 of 14 were trained.*affines_per_block=4 or 6"):
        import_generator(state)


def test_six_affines_are_used_in_the_order_of_their_graph():
    state = golden_state("generator")

    generator, report = import_generator(state, affines_per_block=6)

    first = [name for name in report.used["affines.hidden_weight"] if "block0." in name]
    assert [int(name[13]) for name in first[::2]] == [0, 1, 4, 2, 3, 5]
    assert not any("affine" in name for name in report.unused)
    assert torch.equal(
        generator.affines.hidden_weight[4], state["block0.affine4.fc_gamma.linear1.weight"].T
    )


def test_lstm_copies_that_differ_are_refused():
    state = golden_state("generator")
    state["block3.lstm.W"] = state["block3.lstm.W"] + 1

    with pytest.raises(ValueError, match=r"block3\.lstm\.W differs from lstm\.W"):
        import_generator(state, affines_per_block=4)


def test_another_models_state_dict_is_refused_with_the_names():
    with pytest.raises(ValueError, match=r"has no tensor .*not a state dict of the published"):
        import_generator({"layer.weight": torch.zeros(1)}, affines_per_block=4)
    extra = golden_state("discriminator") | {"ema.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"1 tensors that no published graph .*ema\.weight"):
        import_discriminator(extra)


def test_a_file_with_more_than_tensors_is_refused_and_runs_nothing(tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    torch.save({"weight": Evil()}, tmp_path / "evil.pth")

    with pytest.raises(ValueError, match="not a file of tensors"):
        read_state_dict(tmp_path / "evil.pth")
    assert not marker.exists()


def test_a_saved_state_dict_is_read(tmp_path):
    torch.save({"weight": torch.ones(2)}, tmp_path / "state.pth")

    assert torch.equal(read_state_dict(tmp_path / "state.pth")["weight"], torch.ones(2))


def test_golden_numbers_are_all_compared():
    assert set(GOLDEN["outputs"]) == {
        "generator_image",
        "discriminator_features",
        "plain_head_logits",
        "attention_head_logits",
        "attention_weights",
        "hinge_loss_D",
        "penalty_times_2",
        "generator_loss",
        "damsm_sentence",
        "damsm_words",
    }
