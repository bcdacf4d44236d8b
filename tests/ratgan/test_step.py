"""The training step: what it updates, what it leaves alone, and what it computes."""

import copy

import pytest
import torch

from ratgan.attention import AttentionKind
from ratgan.losses import discriminator_hinge_loss
from ratgan.step import Gan, train_step
from tests.ratgan.networks import small_discriminator, small_generator


def small_gan(attention: AttentionKind = "soft_threshold", **generator) -> Gan:
    return Gan.create(
        small_generator(**generator).double(),
        small_discriminator(attention=attention).double(),
        generator_lr=1e-3,
        discriminator_lr=4e-3,
    )


def small_batch(size: int = 4) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    sentences = torch.randn(size, 9).double()
    return {
        "images": torch.rand(size, 3, 32, 32).double() * 2 - 1,
        "sentences": sentences,
        "mismatched": sentences.roll(1, 0),
        "noise": torch.randn(size, 7).double(),
    }


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [
        ({}, 71),
        ({"attention": "softmax"}, 69),
        ({"attention": "none"}, 67),
        ({"recurrent": False}, 63),
        ({"affines_per_block": 2}, 71),
        ({"affines_per_block": 6}, 71),
    ],
)
def test_no_parameter_is_left_out_of_a_step(variant, parameters):
    gan = small_gan(**variant)
    before = copy.deepcopy(gan)

    train_step(gan, **small_batch())

    seen = 0
    for network in ("generator", "discriminator"):
        old = dict(getattr(before, network).named_parameters())
        for name, parameter in getattr(gan, network).named_parameters():
            assert not torch.equal(parameter, old[name]), f"{network}.{name} did not move"
            seen += 1
    assert seen == parameters


def test_step_equals_the_equations_written_out():
    gan, batch = small_gan(), small_batch()
    plain = copy.deepcopy(gan)

    values = train_step(gan, **batch)

    d, g = plain.discriminator, plain.generator
    adam = {"betas": (0.0, 0.9), "fused": False}
    d_adam = torch.optim.Adam(d.parameters(), lr=4e-3, **adam)
    g_adam = torch.optim.Adam(g.parameters(), lr=1e-3, **adam)
    fake = g(batch["noise"], batch["sentences"])
    hinge = discriminator_hinge_loss(
        d(batch["images"], batch["sentences"])[0],
        d(fake.detach(), batch["sentences"])[0],
        d(batch["images"], batch["mismatched"])[0],
    )
    x, s = batch["images"].clone().requires_grad_(), batch["sentences"].clone().requires_grad_()
    by_x, by_s = torch.autograd.grad(d(x, s)[0].sum(), (x, s), create_graph=True)
    norms = (by_x.flatten(1).square().sum(1) + by_s.square().sum(1)).sqrt()
    penalty = 2 * (norms**6).mean()
    (hinge + penalty).backward()
    d_adam.step()
    g_adam.zero_grad()
    loss = -d(g(batch["noise"], batch["sentences"]), batch["sentences"])[0].mean()
    loss.backward()
    g_adam.step()
    for name, expected in (
        ("loss/discriminator", hinge),
        ("loss/penalty", penalty),
        ("loss/generator", loss),
    ):
        torch.testing.assert_close(values[name], expected.detach(), rtol=1e-11, atol=0)
    for ours, theirs in ((gan.discriminator, d), (gan.generator, g)):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_average_moves_towards_the_generator_by_its_share():
    gan = small_gan()
    before = copy.deepcopy(gan.average)

    train_step(gan, **small_batch(), average_decay=0.9)

    for old, new, average in zip(
        before.parameters(), gan.generator.parameters(), gan.average.parameters(), strict=True
    ):
        torch.testing.assert_close(average, 0.9 * old + 0.1 * new.detach())


def test_discriminator_can_train_again_after_the_generators_turn():
    gan = small_gan()

    train_step(gan, **small_batch())

    assert all(parameter.requires_grad for parameter in gan.discriminator.parameters())
    assert not any(parameter.requires_grad for parameter in gan.average.parameters())


def test_gradients_are_synchronized_once_for_each_network():
    gan = small_gan()
    sizes = []

    train_step(gan, **small_batch(), synchronize=lambda ps: sizes.append(len(list(ps))))

    assert sizes == [
        len(list(gan.discriminator.parameters())),
        len(list(gan.generator.parameters())),
    ]
