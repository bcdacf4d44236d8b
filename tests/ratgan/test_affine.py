"""Controller and affine blocks against the paper's equations, written out step by step."""

import torch
from torch.nn import functional

from ratgan.affine import Affine, AffineBlocks, RecurrentController


def test_unrolled_controller_is_the_equation_of_the_paper_step_by_step():
    torch.manual_seed(0)
    controller = RecurrentController(sentence_dim=5, noise_dim=4, controller_dim=3).double()
    noise, sentence = torch.randn(2, 4).double(), torch.randn(2, 5).double()

    states = controller(noise, sentence, num_steps=6)

    h, c = controller.initial_hidden(noise), controller.initial_cell(noise)
    lstm = controller.lstm
    for step in range(6):
        gates = (
            sentence @ lstm.weight_ih_l0.T
            + h @ lstm.weight_hh_l0.T
            + lstm.bias_ih_l0
            + lstm.bias_hh_l0
        )
        i, f, u, o = gates.chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * u.tanh()
        h = o.sigmoid() * c.tanh()
        torch.testing.assert_close(states[:, step], h, rtol=0, atol=1e-12)


def test_calling_the_controller_twice_gives_the_same_states():
    controller = RecurrentController(sentence_dim=5, noise_dim=4, controller_dim=3)
    noise, sentence = torch.randn(2, 4), torch.randn(2, 5)

    first, second = (controller(noise, sentence, num_steps=3) for _ in range(2))

    assert torch.equal(first, second)


def test_the_controller_computes_in_float32_beside_layers_in_bfloat16():
    controller = RecurrentController(sentence_dim=5, noise_dim=4, controller_dim=3)
    noise, sentence = torch.randn(2, 4), torch.randn(2, 5)

    with torch.autocast("cpu", torch.bfloat16):
        states = controller(noise, sentence, num_steps=3)
        rounded = controller(noise.bfloat16(), sentence.bfloat16(), num_steps=3)

    assert torch.equal(states, controller(noise, sentence, num_steps=3))
    assert rounded.dtype == torch.float32


def test_affine_scales_and_shifts_each_channel():
    features = torch.randn(2, 3, 4, 4)
    affine = Affine(scale=torch.randn(2, 3), shift=torch.randn(2, 3))

    changed = affine(features)

    expected = features[1, 2] * affine.scale[1, 2] + affine.shift[1, 2]
    torch.testing.assert_close(changed[1, 2], expected)


def test_batched_affine_blocks_equal_separate_two_layer_mlps():
    torch.manual_seed(0)
    channels = [6, 6, 6, 4, 4, 2]
    blocks = AffineBlocks(channels, condition_dim=5, hidden_dim=7).double()
    for weight in blocks.output_weights:
        torch.nn.init.normal_(weight)
    hidden = torch.randn(3, len(channels), 5).double()

    affines = blocks(hidden)

    # Runs of equal channels share a product: walk through them row by row.
    outputs = [
        (weight, bias)
        for weights, biases in zip(blocks.output_weights, blocks.output_biases, strict=True)
        for weight, bias in zip(weights, biases, strict=True)
    ]
    for step, affine in enumerate(affines):
        for row, value in ((2 * step, affine.scale), (2 * step + 1, affine.shift)):
            weight, bias = outputs[row]
            middle = hidden[:, step] @ blocks.hidden_weight[row] + blocks.hidden_bias[row]
            expected = functional.relu(middle) @ weight + bias
            assert value.shape == (3, channels[step])
            torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)


def test_affine_blocks_start_as_the_identity():
    blocks = AffineBlocks([4, 2], condition_dim=5, hidden_dim=7)

    affines = blocks(torch.randn(3, 2, 5))

    for affine in affines:
        assert torch.equal(affine.scale, torch.ones_like(affine.scale))
        assert torch.equal(affine.shift, torch.zeros_like(affine.shift))
