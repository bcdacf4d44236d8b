"""Views are those of DiffAugment, differentiable, and the same for every share of a batch."""

import pytest
import torch

from ratgan.augmentation import RISE, Views, adapted, draw_views

KINDS = ("translation", "cutout", "colour")


def pictures(count: int, side: int = 8) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, side, side, generator=draw).double() * 2 - 1


def written_out(image, random, kinds, strength):
    """Change one image [3, H, W] as DiffAugment does, pixel by pixel where that is plainest."""
    chances, (down, right, top, left, light, vividness, contrast) = random[:3], random[3:]
    side = image.shape[-1]
    if "colour" in kinds and chances[2] < strength:
        image = image + (light - 0.5)
        image = (image - image.mean(0)) * 2 * vividness + image.mean(0)
        image = (image - image.mean()) * (contrast + 0.5) + image.mean()
    if "translation" in kinds and chances[0] < strength:
        most, moved = side // 8, torch.zeros_like(image)
        by = [int((2 * most + 1) * n) - most for n in (down, right)]
        for y in range(side):
            for x in range(side):
                if 0 <= y - by[0] < side and 0 <= x - by[1] < side:
                    moved[:, y, x] = image[:, y - by[0], x - by[1]]
        image = moved
    if "cutout" in kinds and chances[1] < strength:
        size, kept = side // 2, torch.ones(side, side)
        first = [int((side + 1 - size % 2) * n) - size // 2 for n in (top, left)]
        rows, columns = (slice(max(0, n), n + size) for n in first)
        kept[rows, columns] = 0
        image = image * kept
    return image


@pytest.mark.parametrize("kinds", [(), *((each,) for each in KINDS), KINDS])
@pytest.mark.parametrize("strength", [0.4, 1.0])
@pytest.mark.parametrize("side", [8, 16])
def test_views_are_those_of_diffaugment(kinds, strength, side):
    images, random = pictures(32, side), draw_views(7, 3, 32).double()

    seen = Views(kinds, random, strength).of(images)

    expected = [
        written_out(image, numbers, kinds, strength)
        for image, numbers in zip(images, random, strict=True)
    ]
    torch.testing.assert_close(seen, torch.stack(expected), rtol=0, atol=1e-12)
    changed = (seen != images).flatten(1).any(1)
    assert bool(changed.any()) == bool(kinds)
    assert bool(changed.all()) <= (strength == 1)


@pytest.mark.parametrize("kinds", [*((each,) for each in KINDS), KINDS])
def test_gradients_flow_through_views_to_the_images(kinds):
    images, views = pictures(2), Views(kinds, draw_views(0, 0, 2).double())

    assert torch.autograd.gradcheck(views.of, images.requires_grad_(), fast_mode=True)
    assert torch.autograd.gradgradcheck(views.of, images, fast_mode=True)


def test_views_follow_from_seed_step_and_image_whoever_holds_which_share():
    images = pictures(6)

    whole = Views(KINDS, draw_views(5, 9, 6), 0.5)

    assert torch.equal(draw_views(5, 9, 6), whole.random)
    for others in (draw_views(5, 8, 6), draw_views(4, 9, 6)):
        assert not torch.equal(others, whole.random)
    for count in (2, 3, 4, 6):
        parts = zip(whole.split(count), images.tensor_split(count), strict=True)
        assert torch.equal(torch.cat([part.of(some) for part, some in parts]), whole.of(images))


def test_images_keep_their_type_and_at_strength_0_each_bit():
    images, random = pictures(5), draw_views(1, 1, 5)

    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        assert Views(KINDS, random).of(images.to(dtype)).dtype == dtype
    assert torch.equal(Views(KINDS, random, 0.0).of(images), images)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="augment='blur' must be of translation, cutout, colour"):
        Views(("cutout", "blur"), draw_views(0, 0, 2))


def test_the_strength_rises_while_the_discriminator_is_too_sure_and_falls_while_it_is_not():
    def after(steps: int, sign: float, start: float = 0.0, skipped: float = 0.0) -> float:
        strength = torch.tensor(start)
        for _ in range(steps):
            strength = adapted(strength, torch.tensor(sign), 100, torch.tensor(skipped))
        return float(strength)

    assert after(RISE // 200, 1.0) == pytest.approx(0.5, abs=1e-5)
    assert after(RISE // 200, 0.8) == pytest.approx(0.25, abs=1e-5)
    assert after(10, 0.6, start=0.3) == pytest.approx(0.3, abs=1e-5)
    assert after(RISE // 200, 0.2, start=0.7) == pytest.approx(0.2, abs=1e-5)
    assert after(RISE // 50, 1.0) == 1
    assert after(RISE // 50, -1.0, start=0.5) == 0
    assert after(10, 1.0, start=0.3, skipped=1.0) == pytest.approx(0.3)
