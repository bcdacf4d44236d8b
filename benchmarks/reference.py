"""The training step in the order of operations of the published code, for comparison.

Written from the equations: the controller is called once for each affine
transformation, every transformation has two MLPs of its own, features are upsampled
before anything acts on them and shortcuts convolved before they are pooled, the
discriminator takes an Adam step on the hinge loss and another on the penalty, and is
not frozen while the generator learns. Layers that the published code holds and never
runs are left out.

Dimensions in this file:
    B batch, C channels, H W height and width, S sentence size, Z noise size,
    K controller size, T affine transformations.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ratgan.discriminator import Discriminator
from ratgan.generator import Generator

LEAK = 0.2
State = tuple[Tensor, Tensor]


class Cell(nn.Module):
    """One step of the controller, as the paper writes it.

    Args:
        sentence_dim: Size S.
        controller_dim: Size K.
    """

    def __init__(self, sentence_dim: int, controller_dim: int) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.empty(4 * controller_dim, sentence_dim))
        self.weight_hh = nn.Parameter(torch.empty(4 * controller_dim, controller_dim))
        # Two, though one would do: Adam moves their sum twice as far, here and in torch's LSTM.
        self.bias_ih = nn.Parameter(torch.empty(4 * controller_dim))
        self.bias_hh = nn.Parameter(torch.empty(4 * controller_dim))

    def forward(self, sentence: Tensor, state: State) -> State:
        """Advance the state (h, c), each [B, K]."""
        hidden, cell = state
        gates = sentence @ self.weight_ih.t() + hidden @ self.weight_hh.t()
        gates = gates + self.bias_ih + self.bias_hh
        keep_in, forget, update, out = gates.chunk(4, dim=1)
        cell = forget.sigmoid() * cell + keep_in.sigmoid() * update.tanh()
        return out.sigmoid() * cell.tanh(), cell


class AffineLayer(nn.Module):
    """One affine transformation with its two MLPs.

    Args:
        channels: Of the features.
        controller_dim: Size K.
        hidden_dim: Hidden size of the MLPs.
    """

    def __init__(self, channels: int, controller_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.scale, self.shift = (
            nn.Sequential(
                nn.Linear(controller_dim, hidden_dim),
                nn.ReLU(inplace=True),
                nn.Linear(hidden_dim, channels),
            )
            for _ in range(2)
        )

    def forward(self, features: Tensor, hidden: Tensor) -> Tensor:
        """Scale and shift features [B, C, H, W] by what a state [B, K] says."""
        scale = self.scale(hidden)[:, :, None, None].expand_as(features)
        shift = self.shift(hidden)[:, :, None, None].expand_as(features)
        return scale * features + shift


class UpBlock(nn.Module):
    """A residual block of the generator.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        upsample: Double height and width first.
        affines: Transformations in the block, half of them before each convolution.
        controller_dim: Size K.
        affine_dim: Hidden size of the MLPs.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        upsample: bool,
        affines: int,
        controller_dim: int,
        affine_dim: int,
    ) -> None:
        super().__init__()
        self.upsample = upsample
        sizes = [in_channels] * (affines // 2) + [out_channels] * (affines // 2)
        self.affines = nn.ModuleList(AffineLayer(c, controller_dim, affine_dim) for c in sizes)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1)
        )
        self.residual_scale = nn.Parameter(torch.zeros(1))

    def forward(
        self, features: Tensor, controller: Cell, sentence: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """Draw one level and advance the controller."""
        if self.upsample:
            features = functional.interpolate(features, scale_factor=2)
        residual = features
        half = len(self.affines) // 2
        for affines, conv in (
            (self.affines[:half], self.conv1),
            (self.affines[half:], self.conv2),
        ):
            for affine in affines:
                state = controller(sentence, state)
                residual = functional.leaky_relu(affine(residual, state[0]), LEAK, inplace=True)
            residual = conv(residual)
        return self.shortcut(features) + self.residual_scale * residual, state


class ReferenceGenerator(nn.Module):
    """The generator of a `Generator`'s size; weights come from `generator_tensors`.

    Args:
        ours: Gives the sizes.
    """

    def __init__(self, ours: Generator) -> None:
        super().__init__()
        sizes = ours.arguments
        controller_dim, affines = sizes["controller_dim"], sizes["affines_per_block"]
        self.initial_hidden = nn.Linear(sizes["noise_dim"], controller_dim)
        self.initial_cell = nn.Linear(sizes["noise_dim"], controller_dim)
        self.controller = Cell(sizes["sentence_dim"], controller_dim)
        self.project = nn.Linear(sizes["noise_dim"], ours.project.out_features)
        convs: list[Any] = [block.conv1 for block in ours.blocks]
        self.blocks = nn.ModuleList(
            UpBlock(
                conv.in_channels,
                conv.out_channels,
                upsample=level > 0,
                affines=affines,
                controller_dim=controller_dim,
                affine_dim=sizes["affine_dim"],
            )
            for level, conv in enumerate(convs)
        )
        self.to_rgb = nn.Conv2d(ours.to_rgb.in_channels, 3, 3, padding=1)

    def forward(self, noise: Tensor, sentence: Tensor) -> Tensor:
        """Draw images [B, 3, H, W] in [-1, 1] from noise [B, Z] and sentences [B, S]."""
        state = (self.initial_hidden(noise), self.initial_cell(noise))
        features = self.project(noise).view(len(noise), -1, 4, 4)
        for block in self.blocks:
            features, state = block(features, self.controller, sentence, state)
        return torch.tanh(self.to_rgb(functional.leaky_relu(features, LEAK, inplace=True)))


class HalvingBlock(nn.Module):
    """A residual block of the discriminator.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False),
            nn.LeakyReLU(LEAK, inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.LeakyReLU(LEAK, inplace=True),
        )
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1)
        )
        self.residual_scale = nn.Parameter(torch.zeros(1))

    def forward(self, features: Tensor) -> Tensor:
        """Map [B, C_in, H, W] to [B, C_out, H/2, W/2]."""
        shortcut = functional.avg_pool2d(self.shortcut(features), 2)
        return shortcut + self.residual_scale * self.residual(features)


class ReferenceDiscriminator(nn.Module):
    """The discriminator without attention; weights come from `discriminator_tensors`.

    Args:
        ours: Gives the sizes; built with ``attention="none"``.
    """

    def __init__(self, ours: Discriminator) -> None:
        super().__init__()
        blocks: list[Any] = [*ours.trunk]
        convs = [block.residual[0] for block in blocks]
        joint: Any = ours.head.score[0]
        self.from_rgb = nn.Conv2d(3, ours.from_rgb.out_channels, 3, padding=1)
        self.blocks = nn.Sequential(*(HalvingBlock(c.in_channels, c.out_channels) for c in convs))
        self.score = nn.Sequential(
            nn.Conv2d(joint.in_channels, joint.out_channels, 3, padding=1, bias=False),
            nn.LeakyReLU(LEAK, inplace=True),
            nn.Conv2d(joint.out_channels, 1, 4, bias=False),
        )

    def features(self, images: Tensor) -> Tensor:
        """Map images [B, 3, H, W] to features [B, C, 4, 4]."""
        features: Tensor = self.blocks(self.from_rgb(images))
        return features

    def judge(self, features: Tensor, sentence: Tensor) -> Tensor:
        """Score features [B, C, 4, 4] against sentences [B, S]: logits [B]."""
        repeated = sentence[:, :, None, None].repeat(1, 1, 4, 4)
        logits: Tensor = self.score(torch.cat([features, repeated], dim=1))
        return logits.flatten()


def generator_tensors(ours: Mapping[str, Tensor], affines_per_block: int) -> dict[str, Tensor]:
    """Rename and split a generator's tensors as the reference holds them.

    Args:
        ours: Weights or gradients of a `Generator`, by name.
        affines_per_block: Of that generator.
    """
    reference = {
        name.replace("controller.initial", "initial")
        .replace("controller.lstm", "controller")
        .removesuffix("_l0"): tensor
        for name, tensor in ours.items()
        if not name.startswith("affines.")
    }
    # Row 2t belongs to the scale of transformation t, row 2t + 1 to its shift; ours multiply
    # from the left, nn.Linear from the right.
    outputs = {
        kind: [
            row
            for name, rows in ours.items()
            if name.startswith(f"affines.output_{kind}")
            for row in rows
        ]
        for kind in ("weights", "biases")
    }
    for row in range(len(ours["affines.hidden_weight"])):
        block, place = divmod(row // 2, affines_per_block)
        prefix = f"blocks.{block}.affines.{place}.{('scale', 'shift')[row % 2]}"
        reference |= {
            f"{prefix}.0.weight": ours["affines.hidden_weight"][row].t(),
            f"{prefix}.0.bias": ours["affines.hidden_bias"][row].flatten(),
            f"{prefix}.2.weight": outputs["weights"][row].t(),
            f"{prefix}.2.bias": outputs["biases"][row].flatten(),
        }
    return reference


def discriminator_tensors(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a discriminator's tensors, weights or gradients, as the reference holds them."""
    return {
        name.replace("trunk.", "blocks.").replace("head.score.", "score."): tensor
        for name, tensor in ours.items()
    }


class ReferenceStep:
    """The networks in training, and their step.

    Args:
        generator: Weights are copied.
        discriminator: Likewise; built with ``attention="none"``.
        generator_lr: Learning rate of G.
        discriminator_lr: Learning rate of D.
        betas: Of both Adam optimizers.
    """

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        *,
        generator_lr: float = 1e-4,
        discriminator_lr: float = 4e-4,
        betas: tuple[float, float] = (0.0, 0.9),
    ) -> None:
        like = generator.project.weight
        self.generator = ReferenceGenerator(generator).to(like)
        self.discriminator = ReferenceDiscriminator(discriminator).to(like)
        affines = generator.affines_per_block
        self.generator.load_state_dict(generator_tensors(generator.state_dict(), affines))
        self.discriminator.load_state_dict(discriminator_tensors(discriminator.state_dict()))
        self.generator_optimizer = torch.optim.Adam(
            self.generator.parameters(), lr=generator_lr, betas=betas
        )
        self.discriminator_optimizer = torch.optim.Adam(
            self.discriminator.parameters(), lr=discriminator_lr, betas=betas
        )

    def __call__(
        self, *, images: Tensor, sentences: Tensor, mismatched: Tensor, noise: Tensor
    ) -> dict[str, Tensor]:
        """Update D on the hinge loss, D on the penalty, and G.

        Args:
            images: Real images in [-1, 1], [B, 3, H, W].
            sentences: [B, S].
            mismatched: Sentences of other images, [B, S].
            noise: [B, Z].

        Returns:
            The three losses, under the names that `ratgan.step.train_step` gives them.
        """
        generated = self.generator(noise, sentences)
        hinge = self._hinge(images, sentences, mismatched, generated.detach())
        self._update(self.discriminator_optimizer, hinge)
        penalty = self._penalty(images, sentences)
        self._update(self.discriminator_optimizer, penalty)
        judged = self.discriminator.judge(self.discriminator.features(generated), sentences)
        loss = -judged.mean()
        self._update(self.generator_optimizer, loss)
        return {
            "loss/discriminator": hinge.detach(),
            "loss/penalty": penalty.detach(),
            "loss/generator": loss.detach(),
        }

    def _hinge(
        self, images: Tensor, sentences: Tensor, mismatched: Tensor, generated: Tensor
    ) -> Tensor:
        d = self.discriminator
        features = d.features(images)
        real = functional.relu(1 - d.judge(features, sentences)).mean()
        other = functional.relu(1 + d.judge(features, mismatched)).mean()
        fake = functional.relu(1 + d.judge(d.features(generated), sentences)).mean()
        return real + (fake + other) / 2

    def _penalty(self, images: Tensor, sentences: Tensor) -> Tensor:
        images, sentences = images.detach().requires_grad_(), sentences.detach().requires_grad_()
        logits = self.discriminator.judge(self.discriminator.features(images), sentences)
        gradients = torch.autograd.grad(
            logits, (images, sentences), torch.ones_like(logits), create_graph=True
        )
        flat = torch.cat([gradient.flatten(1) for gradient in gradients], dim=1)
        norm = flat.square().sum(1).sqrt()
        return 2 * (norm**6).mean()

    def _update(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        self.generator_optimizer.zero_grad()
        self.discriminator_optimizer.zero_grad()
        loss.backward()
        optimizer.step()
