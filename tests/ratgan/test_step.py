"""The training step: what it updates, what it leaves alone, and what it computes."""

import copy
import statistics
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional

from ratgan.augmentation import Views, draw_views
from ratgan.losses import discriminator_hinge_loss
from ratgan.matcher import Choice, Matcher
from ratgan.ops.adam import Adam
from ratgan.options import AttentionKind
from ratgan.step import Gan, train_step
from ratgan.update import update_network
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


def all_views(size: int, strength: float = 1.0) -> Views:
    return Views(("translation", "cutout", "colour"), draw_views(3, 0, size).double(), strength)


def a_choice() -> Choice:
    """Among the 4 captions of `small_batch`; image 0 may have the caption of image 2 as well."""
    alike = torch.zeros(4, 4, dtype=torch.bool)
    alike[0, 2] = True
    return Choice(0.7, small_batch()["sentences"], torch.arange(4), alike)


def matched_gan() -> Gan:
    gan = small_gan()
    gan.matcher = Matcher(32, 9).double()
    gan.matcher_optimizer = Adam(gan.matcher.parameters(), lr=1e-2)
    return gan


def choices(matcher: Matcher, images: torch.Tensor, choice: Choice) -> torch.Tensor:
    """Compute the matching loss image by image."""
    losses = []
    for image, own, alike in zip(images, choice.own, choice.alike, strict=True):
        vector = matcher.of_images(image[None])[0]
        others = matcher.of_sentences(choice.sentences)
        cosines = others @ vector / (others.norm(dim=1) * vector.norm())
        scores = (10 * cosines).exp()
        losses.append(-(scores[own] / scores[~alike].sum()).log())
    return torch.stack(losses).mean()


def test_the_generator_is_pulled_by_a_matcher_that_has_learned_from_real_images():
    gan, batch, choice = matched_gan(), small_batch(), a_choice()
    plain, without = copy.deepcopy(gan), copy.deepcopy(gan)
    without.matcher = without.matcher_optimizer = None

    values = train_step(gan, **batch, choice=choice)

    train_step(without, **batch)
    for ours, theirs in zip(
        gan.discriminator.parameters(), without.discriminator.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), "the discriminator does not see it"
    loss = choices(plain.matcher, batch["images"], choice)
    plain.matcher_optimizer.zero_grad()
    loss.backward()
    plain.matcher_optimizer.step()
    drawn = plain.generator(batch["noise"], batch["sentences"])
    matching = choices(plain.matcher, drawn, choice)
    deception = -gan.discriminator(drawn, batch["sentences"])[0].mean()
    plain.generator_optimizer.zero_grad()
    (deception + 0.7 * matching).backward()
    plain.generator_optimizer.step()
    expected = {"loss/matcher": loss, "loss/matching": matching, "loss/generator": deception}
    for name, value in expected.items():
        torch.testing.assert_close(values[name], value.detach(), rtol=1e-11, atol=0)
    for network in ("matcher", "generator"):
        pairs = (getattr(each, network).parameters() for each in (gan, plain))
        for a, b in zip(*pairs, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("update", ["fused", "separate"])
def test_a_matching_loss_in_parts_is_that_of_the_whole(update):
    whole, batch = matched_gan(), small_batch()
    parts = copy.deepcopy(whole)

    expected = train_step(whole, **batch, choice=a_choice(), update=update)
    values = train_step(parts, **batch, choice=a_choice(), update=update, accumulate=3)

    torch.testing.assert_close(values, expected)
    for network in ("matcher", "generator"):
        pairs = (getattr(each, network).parameters() for each in (parts, whole))
        for a, b in zip(*pairs, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_a_matcher_is_left_as_it_is_by_a_step_that_is_skipped():
    gan, batch = matched_gan(), small_batch()
    before = copy.deepcopy(gan.matcher.state_dict())
    batch["images"][1, 0, 3, 3] = torch.nan

    values = train_step(gan, **batch, choice=a_choice())

    assert values["health/skipped"] == 1
    torch.testing.assert_close(gan.matcher.state_dict(), before, rtol=0, atol=0)


def test_a_matcher_and_a_choice_need_each_other():
    for gan, options in ((matched_gan(), {}), (small_gan(), {"choice": a_choice()})):
        with pytest.raises(ValueError, match="a matcher in `gan` and `choice` need each other"):
            train_step(gan, **small_batch(), **options)


@pytest.mark.parametrize("update", ["fused", "separate"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_loss_is_of_the_same_views_of_the_images(update, accumulate):
    gan, batch, views = small_gan(), small_batch(), all_views(4)
    plain = copy.deepcopy(gan)

    values = train_step(gan, **batch, views=views, update=update, accumulate=accumulate)

    d, g = plain.discriminator, plain.generator
    seen = views.of(batch["images"])
    drawn = views.of(g(batch["noise"], batch["sentences"]))
    real = d(seen, batch["sentences"])[0]
    hinge = discriminator_hinge_loss(
        real, d(drawn.detach(), batch["sentences"])[0], d(seen, batch["mismatched"])[0]
    )
    if update == "separate":
        plain.discriminator_optimizer.zero_grad()
        hinge.backward()
        plain.discriminator_optimizer.step()
    x, s = seen.clone().requires_grad_(), batch["sentences"].clone().requires_grad_()
    by_x, by_s = torch.autograd.grad(d(x, s)[0].sum(), (x, s), create_graph=True)
    penalty = 2 * ((by_x.flatten(1).square().sum(1) + by_s.square().sum(1)) ** 3).mean()
    plain.discriminator_optimizer.zero_grad(set_to_none=False)
    (penalty if update == "separate" else hinge + penalty).backward()
    plain.discriminator_optimizer.step()
    plain.generator_optimizer.zero_grad()
    loss = -d(drawn, batch["sentences"])[0].mean()
    loss.backward()
    plain.generator_optimizer.step()
    for name, expected in (
        ("loss/discriminator", hinge),
        ("loss/penalty", penalty),
        ("loss/generator", loss),
        ("logit/real_sign", real.sign().mean()),
    ):
        torch.testing.assert_close(values[name], expected.detach(), rtol=1e-9, atol=0, msg=name)
    for ours, theirs in ((gan.discriminator, d), (gan.generator, g)):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("update", ["fused", "separate"])
def test_views_that_change_no_image_change_no_bit_of_a_step(update):
    gan, twin = small_gan(), small_gan()

    for _ in range(2):
        values = train_step(gan, **small_batch(), update=update)
        unchanged = train_step(twin, **small_batch(), views=all_views(4, 0.0), update=update)

    assert unchanged.keys() - values.keys() == {"logit/real_sign"}
    for name, value in values.items():
        assert torch.equal(value, unchanged[name]), name
    for name, tensor in everything(gan).items():
        assert torch.equal(tensor, everything(twin)[name]), name


def test_two_separate_steps_equal_the_published_loop():
    gan = Gan.create(
        small_generator().double(),
        small_discriminator(attention="none").double(),
        generator_lr=1e-3,
        discriminator_lr=4e-3,
    )
    d, g = copy.deepcopy(gan.discriminator), copy.deepcopy(gan.generator)
    adam = {"betas": (0.0, 0.9), "fused": False}
    d_adam = torch.optim.Adam(d.parameters(), lr=4e-3, **adam)
    g_adam = torch.optim.Adam(g.parameters(), lr=1e-3, **adam)
    batch = small_batch()

    values = [train_step(gan, **batch, update="separate") for _ in range(2)]

    for step in range(2):
        fake = g(batch["noise"], batch["sentences"])
        hinge = discriminator_hinge_loss(
            d(batch["images"], batch["sentences"])[0],
            d(fake.detach(), batch["sentences"])[0],
            d(batch["images"], batch["mismatched"])[0],
        )
        d_adam.zero_grad()
        hinge.backward()
        d_adam.step()
        x = batch["images"].clone().requires_grad_()
        s = batch["sentences"].clone().requires_grad_()
        by_x, by_s = torch.autograd.grad(d(x, s)[0].sum(), (x, s), create_graph=True)
        penalty = 2 * ((by_x.flatten(1).square().sum(1) + by_s.square().sum(1)).sqrt() ** 6).mean()
        d_adam.zero_grad(set_to_none=False)  # what the penalty does not reach keeps zeros
        penalty.backward()
        d_adam.step()
        loss = -d(fake, batch["sentences"])[0].mean()
        g_adam.zero_grad()
        loss.backward()
        g_adam.step()
        for name, expected in (
            ("loss/discriminator", hinge),
            ("loss/penalty", penalty),
            ("loss/generator", loss),
        ):
            torch.testing.assert_close(values[step][name], expected.detach(), rtol=1e-9, atol=0)
    for ours, theirs in ((gan.discriminator, d), (gan.generator, g)):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_adam_forgets_the_second_moment_where_the_penalty_has_no_gradient():
    # With attention the penalty depends on every bias.
    gan = Gan.create(small_generator().double(), small_discriminator(attention="none").double())

    train_step(gan, **small_batch(), update="separate")

    bias = gan.discriminator.from_rgb.bias
    state = gan.discriminator_optimizer.state[bias]
    assert torch.equal(bias.grad, torch.zeros_like(bias))
    assert state["step"] == 2
    assert state["exp_avg_sq"].max() > 0  # of the hinge loss, decayed


def published_batch(size: int) -> dict[str, torch.Tensor]:
    """A batch with the weights of the published pairing, whose mean is over the whole of it."""
    weights = torch.full((size,), size / (size - 1)).double()
    weights[size // 2] = 0
    return small_batch(size) | {"mismatched_weights": weights}


@pytest.mark.parametrize("update", ["fused", "separate"])
# Of 6 images: parts of 3, of 2 and 1, of 1.
@pytest.mark.parametrize(
    ("accumulate", "views"), [(2, None), (4, None), (6, None), (4, all_views(6))]
)
def test_parts_of_a_batch_train_what_the_whole_trains(accumulate, views, update):
    whole, parts = small_gan(), small_gan()
    batch = published_batch(6) | {"views": views}

    for _ in range(3):
        expected = train_step(whole, **batch, update=update)
        values = train_step(parts, **batch, update=update, accumulate=accumulate)

        assert values.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(values[name], value, rtol=1e-10, atol=1e-10, msg=name)
        for network in ("generator", "discriminator", "average"):
            pair = getattr(parts, network), getattr(whole, network)
            for ours, theirs in zip(*(each.parameters() for each in pair), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
                if network != "average":
                    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-10)


def test_parts_train_every_parameter_under_autocast():
    # Autocast keeps the weights it has cast, also those cast where no gradient was asked for.
    gan = Gan.create(small_generator(), small_discriminator())
    batch = {name: tensor.float() for name, tensor in small_batch().items()}

    with torch.autocast("cpu", torch.bfloat16):
        train_step(gan, **batch, accumulate=2)

    for network in (gan.generator, gan.discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("accumulate", [0, 5])
def test_more_parts_than_images_are_refused(accumulate):
    with pytest.raises(ValueError, match=f"accumulate={accumulate} must be from 1 to 4"):
        train_step(small_gan(), **small_batch(4), accumulate=accumulate)


def everything(gan: Gan) -> dict[str, torch.Tensor]:
    """Copy weights, averages and moments."""
    return {
        **{
            f"{network}.{name}": tensor.clone()
            for network in ("generator", "discriminator", "average")
            for name, tensor in getattr(gan, network).state_dict().items()
        },
        **{
            f"{optimizer}.{number}.{name}": tensor.clone()
            for optimizer in ("generator_optimizer", "discriminator_optimizer")
            for number, state in enumerate(getattr(gan, optimizer).state.values())
            for name, tensor in state.items()
        },
    }


@pytest.mark.parametrize("update", ["fused", "separate"])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("spoiled", ["images", "sentences", "mismatched", "noise"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_changes_nothing(spoiled, number, update, accumulate):
    gan = small_gan()
    train_step(gan, **small_batch(), update=update)
    before = everything(gan)
    bad = small_batch()
    bad[spoiled][3].view(-1)[5] = number

    values = train_step(gan, **bad, update=update, accumulate=accumulate)

    assert values["health/skipped"] == 1
    after = everything(gan)
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name


def test_training_goes_on_after_a_skipped_step_as_if_it_had_not_been():
    gan, twin = small_gan(), small_gan()
    bad = small_batch() | {"images": torch.full((4, 3, 32, 32), float("nan")).double()}

    skipped = [train_step(gan, **batch)["health/skipped"] for batch in (small_batch(), bad) * 2]

    for _ in range(2):
        train_step(twin, **small_batch())
    assert [int(each) for each in skipped] == [0, 1, 0, 1]
    for name, tensor in everything(twin).items():
        assert torch.equal(everything(gan)[name], tensor), name


def test_the_generator_waits_while_the_discriminator_cannot_learn():
    # A generator that learns on against a discriminator that stands still would run away from it.
    gan = small_gan()
    before = copy.deepcopy(gan.generator)
    bad = small_batch()
    bad["images"][0] = float("nan")  # which the generator's loss does not see

    values = train_step(gan, **bad)

    assert values["loss/generator"].isfinite()
    for old, new in zip(before.parameters(), gan.generator.parameters(), strict=True):
        assert torch.equal(old, new)


def test_no_optimizer_state_is_made_of_a_first_step_that_is_not_finite():
    gan = small_gan()
    bad = small_batch()
    bad["noise"][:] = float("inf")

    train_step(gan, **bad)

    for optimizer in (gan.generator_optimizer, gan.discriminator_optimizer):
        for state in optimizer.state.values():
            assert all((moment == 0).all() for moment in state.values())


@pytest.mark.parametrize(
    ("scale", "constant"),
    [(1e25, 0.0), (1.0, float("inf")), (1.0, float("nan"))],
    ids=["gradient whose square overflows", "infinite loss", "loss that is not a number"],
)
def test_an_update_adam_could_not_forget_is_left_out(scale, constant):
    network = nn.Linear(2, 1, bias=False)
    before = network.weight.detach().clone()
    optimizer = torch.optim.Adam(network.parameters(), fused=True)

    _, skipped = update_network(network, optimizer, [network.weight.sum() * scale + constant])

    assert skipped == 1
    assert torch.equal(network.weight, before)


def test_gradient_norms_are_those_of_the_update():
    gan = small_gan()

    values = train_step(gan, **small_batch())

    for network in ("generator", "discriminator"):
        gradients = [p.grad.flatten() for p in getattr(gan, network).parameters()]
        norm = torch.cat(gradients).norm()
        torch.testing.assert_close(values[f"gradient/{network}"], norm)


def test_unknown_way_to_update_is_refused():
    with pytest.raises(ValueError, match='update=\'both\' must be "fused" or "separate"'):
        train_step(small_gan(), **small_batch(), update="both")


@pytest.mark.rest
def test_score_in_float32_keeps_its_gradient_where_bfloat16_would_lose_it(monkeypatch):
    kept = [error_under_autocast(seed) for seed in range(6)]
    monkeypatch.setattr("ratgan.discriminator.full_precision", lambda like: nullcontext())
    lost = [error_under_autocast(seed) for seed in range(6)]

    # The features are rounded either way, and what is left after cancelling varies with the seed.
    assert statistics.median(kept) <= 0.6 * statistics.median(lost)


def error_under_autocast(seed: int) -> float:
    """Relative error in the gradient of the score, against float64."""
    sizes = {"base_channels": 8, "sentence_dim": 32}
    generator = small_generator(64, **sizes)
    discriminator = small_discriminator(64, **sizes, attention="none")
    torch.manual_seed(seed)
    for parameter in discriminator.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_uniform_(parameter, a=5**0.5)
    gan = Gan.create(generator, discriminator)
    exact = Gan.create(copy.deepcopy(generator).double(), copy.deepcopy(discriminator).double())
    # Smooth images: noise averages out in the features, and leaves nothing to tell apart.
    colours = torch.rand(4, 3, 4, 4) * 2 - 1
    sentences = torch.randn(4, 32)
    batch = {
        "images": functional.interpolate(colours, size=64, mode="bilinear"),
        "sentences": sentences,
        "mismatched": sentences.roll(1, 0),
        "noise": torch.randn(4, 7),
    }
    with torch.autocast("cpu", torch.bfloat16):
        rounded = gradients_of_the_score(gan, batch)
    expected = gradients_of_the_score(exact, {name: t.double() for name, t in batch.items()})
    assert rounded.dtype == torch.float32
    return ((rounded - expected).norm() / expected.norm()).item()


def gradients_of_the_score(gan: Gan, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return those of the hinge loss, in one vector."""
    updates = []

    def record(_):
        parameters = gan.discriminator.head.score.parameters()
        updates.append(torch.cat([parameter.grad.flatten() for parameter in parameters]))

    train_step(gan, **batch, update="separate", synchronize=record)
    return updates[0]


class Grow(torch.optim.SGD):
    """Makes all weights larger, whatever their gradient."""

    @torch.no_grad()
    def step(self, closure=None):
        torch._foreach_mul_(self.param_groups[0]["params"], 1.5)


def test_a_step_under_autocast_sees_the_weights_it_has_just_updated():
    batch = {name: tensor.float() for name, tensor in small_batch().items()}
    gan = Gan.create(small_generator(), small_discriminator())
    gan.discriminator_optimizer = Grow(gan.discriminator.parameters())
    twin = copy.deepcopy(gan)

    with torch.autocast("cpu", torch.bfloat16):
        penalty = train_step(gan, **batch, update="separate")["loss/penalty"]

    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        expected = train_step(twin, **batch, update="separate")["loss/penalty"]
    torch.testing.assert_close(penalty, expected, rtol=0.05, atol=0)


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


def test_separate_updates_synchronize_once_for_each():
    gan = small_gan()
    calls = []

    train_step(gan, **small_batch(), update="separate", synchronize=lambda ps: calls.append(ps))

    assert len(calls) == 3
