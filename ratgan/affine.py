"""Recurrent affine transformation: the idea that names RAT-GAN.

A recurrent controller reads the sentence once per affine block. Each affine
block scales and shifts the image features as the controller's state determines.

Dimensions in this file:
    B batch, T affine blocks in the generator, C feature channels,
    H W height and width, S sentence size, Z noise size, K size of the conditioning
    vectors (the controller's state), M hidden size of the affine MLPs.
"""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ratgan.ops.precision import full_precision


class RecurrentController(nn.Module):
    """LSTM that computes one conditioning vector for every affine block.

    The sentence is the input at every step, so the sequence depends only on the
    text and the noise, never on the image: the generator unrolls it once, at the
    start.

    Args:
        sentence_dim: Size S of the sentence vector.
        noise_dim: Size Z of the noise that sets the first state.
        controller_dim: Size K of the hidden state.
    """

    def __init__(self, sentence_dim: int, noise_dim: int, controller_dim: int) -> None:
        super().__init__()
        self.dim = controller_dim
        self.initial_hidden = nn.Linear(noise_dim, controller_dim)
        self.initial_cell = nn.Linear(noise_dim, controller_dim)
        self.lstm = nn.LSTM(sentence_dim, controller_dim, batch_first=True)

    def forward(self, noise: Tensor, sentence: Tensor, num_steps: int) -> Tensor:
        """Unroll the controller.

        Args:
            noise: Standard normal, [B, Z].
            sentence: Output of the text encoder, [B, S].
            num_steps: T, one step per affine block.

        Returns:
            Hidden states in the order the generator uses them, [B, T, K].
        """
        hidden: Tensor
        # Rounding would add up over the steps; and CPUs without AVX-512 have no LSTM in bfloat16.
        with full_precision(noise):
            noise, sentence = (x.to(self.initial_hidden.weight.dtype) for x in (noise, sentence))
            inputs = sentence[:, None, :].expand(-1, num_steps, -1)  # [B, T, S]
            state = (self.initial_hidden(noise)[None], self.initial_cell(noise)[None])
            hidden, _ = self.lstm(inputs, state)
        return hidden


class IsolatedConditioning(nn.Module):
    """Conditions every affine block on noise and sentence alone, independent of other blocks.

    The baseline for the recurrent controller: the isolated affine blocks of DF-GAN
    (https://arxiv.org/abs/2008.05865), whose released code conditions on both.

    Args:
        sentence_dim: Size S of the sentence vector.
        noise_dim: Size Z of the noise.
    """

    def __init__(self, sentence_dim: int, noise_dim: int) -> None:
        super().__init__()
        self.dim = noise_dim + sentence_dim

    def forward(self, noise: Tensor, sentence: Tensor, num_steps: int) -> Tensor:
        """Repeat noise [B, Z] and sentence [B, S] for each of T blocks: [B, T, Z + S]."""
        both = torch.cat([noise, sentence], dim=1)
        return both[:, None, :].expand(-1, num_steps, -1)


class Affine(NamedTuple):
    """The transformation of one affine block.

    Attributes:
        scale: γ_t, [B, C].
        shift: β_t, [B, C].
    """

    scale: Tensor
    shift: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Return ``γ_t · c + β_t`` for every channel c of features [B, C, H, W]."""
        return torch.addcmul(self.shift[:, :, None, None], features, self.scale[:, :, None, None])


class AffineBlocks(nn.Module):
    """The two MLPs of every affine block, γ_t = MLP1_t(h_t) and β_t = MLP2_t(h_t).

    All T blocks are evaluated together: one batched product for the hidden
    layers, and one for each run of blocks with the same number of channels.
    Equal to 2T separate two-layer MLPs with ReLU between.

    Args:
        channels: Number of channels C_t that block t acts on, T of them.
        condition_dim: Size K of the conditioning vectors.
        hidden_dim: Size M of the hidden layer.
    """

    def __init__(self, channels: Sequence[int], condition_dim: int, hidden_dim: int) -> None:
        super().__init__()
        # Row 2t belongs to the scale of block t, row 2t + 1 to its shift.
        rows = 2 * len(channels)
        self.hidden_weight = nn.Parameter(torch.empty(rows, condition_dim, hidden_dim))
        self.hidden_bias = nn.Parameter(torch.empty(rows, 1, hidden_dim))
        bound = 1 / math.sqrt(condition_dim)  # the initialization of nn.Linear
        nn.init.uniform_(self.hidden_weight, -bound, bound)
        nn.init.uniform_(self.hidden_bias, -bound, bound)

        # At the start every block is the identity: γ = 1 and β = 0 whatever the text.
        self.output_weights = nn.ParameterList()
        self.output_biases = nn.ParameterList()
        for size, run in groupby(channels):
            blocks = len(list(run))
            self.output_weights.append(torch.zeros(2 * blocks, hidden_dim, size))
            identity = torch.tensor([1.0, 0.0]).repeat(blocks)
            self.output_biases.append(identity[:, None, None].repeat(1, 1, size))

    def forward(self, hidden: Tensor) -> list[Affine]:
        """Compute the T affine transformations.

        Args:
            hidden: Conditioning vectors, the states of the controller, [B, T, K].

        Returns:
            T transformations, each with scale and shift of [B, C_t].
        """
        states = hidden.transpose(0, 1).repeat_interleave(2, dim=0)  # [2T, B, K]
        middle = torch.relu(torch.baddbmm(self.hidden_bias, states, self.hidden_weight))
        affines: list[Affine] = []
        parts = middle.split([len(weight) for weight in self.output_weights])
        for part, weight, bias in zip(parts, self.output_weights, self.output_biases, strict=True):
            rows = torch.baddbmm(bias, part, weight).unbind()  # each [B, C]
            affines += [Affine(*pair) for pair in zip(rows[::2], rows[1::2], strict=True)]
        return affines
