"""Losses and penalty against closed forms and finite differences."""

import torch

from ratgan.losses import (
    discriminator_hinge_loss,
    generator_hinge_loss,
    matching_aware_gradient_penalty,
)
from tests.ratgan.networks import small_discriminator


def test_hinge_losses_are_those_of_the_paper():
    real, generated = torch.tensor([0.5, 2.0]), torch.tensor([-2.0, 0.0])
    mismatched = torch.tensor([-0.5, -3.0])

    loss = discriminator_hinge_loss(real, generated, mismatched)

    # (0.5 + 0)/2 + ½ (0 + 1)/2 + ½ (0.5 + 0)/2
    torch.testing.assert_close(loss, torch.tensor(0.25 + 0.25 + 0.125))
    assert generator_hinge_loss(generated) == 1.0


def test_far_ahead_the_discriminator_gets_no_gradient_and_the_generator_still_does():
    logits = torch.tensor([-1.5, -9.0], requires_grad=True)

    of_discriminator = discriminator_hinge_loss(-logits, logits, logits)
    of_generator = generator_hinge_loss(logits)

    assert of_discriminator == 0
    assert torch.equal(torch.autograd.grad(of_discriminator, logits)[0], torch.zeros(2))
    assert torch.equal(torch.autograd.grad(of_generator, logits)[0], torch.full((2,), -0.5))


def test_pairs_without_weight_are_not_in_the_mean():
    mismatched = torch.tensor([-0.5, 7.0, -3.0])
    weights = torch.tensor([1.5, 0.0, 1.5])
    none = torch.tensor([5.0, 5.0, 5.0])

    loss = discriminator_hinge_loss(none, -none, mismatched, weights)

    assert loss == discriminator_hinge_loss(none[:2], -none[:2], mismatched[[0, 2]])


def test_penalty_of_a_linear_discriminator_is_the_norm_of_its_weights():
    of_image, of_sentence = torch.randn(3, 4, 4).double(), torch.randn(5).double()
    images = torch.randn(2, 3, 4, 4).double().requires_grad_()
    sentences = torch.randn(2, 5).double().requires_grad_()
    logits = (images * of_image).sum((1, 2, 3)) + sentences @ of_sentence

    penalty = matching_aware_gradient_penalty(logits, images, sentences)

    norm = torch.cat([of_image.flatten(), of_sentence]).norm()
    torch.testing.assert_close(penalty, 2 * norm**6)


def test_penalty_of_a_zero_gradient_is_zero_and_has_a_gradient():
    weight = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    images = torch.randn(2, 3, 1, 1).double().requires_grad_()
    sentences = torch.randn(2, 4).double().requires_grad_()
    logits = images.flatten(1) @ weight + 0 * sentences.sum(1)

    penalty = matching_aware_gradient_penalty(logits, images, sentences)
    penalty.backward()

    assert penalty == 0
    assert torch.equal(weight.grad, torch.zeros(3).double())


def test_gradient_of_the_penalty_agrees_with_finite_differences():
    discriminator = small_discriminator().double()
    torch.manual_seed(0)
    images, sentences = torch.randn(2, 3, 32, 32).double(), torch.randn(2, 9).double()

    def penalty() -> torch.Tensor:
        x, s = images.clone().requires_grad_(), sentences.clone().requires_grad_()
        return matching_aware_gradient_penalty(discriminator(x, s)[0], x, s, power=2.0)

    penalty().backward()

    step = 1e-6
    checked = 0
    for parameter in discriminator.parameters():
        place = parameter.data.view(-1)
        index = parameter.numel() // 2
        slope = 0.0
        for sign in (1, -1):
            place[index] += sign * step
            slope += sign * penalty().item() / (2 * step)
            place[index] -= sign * step
        analytic = 0.0 if parameter.grad is None else parameter.grad.view(-1)[index].item()
        assert abs(analytic - slope) <= 1e-5 * max(1, abs(slope))
        checked += 1
    assert checked == len(list(discriminator.parameters()))
