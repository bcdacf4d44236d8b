"""One update of one network, left out on all workers alike where it would not be finite.

A number that is not finite costs nothing to agree on. It goes into the gradient, the mean over
workers carries it to all of them (NaN + x = NaN, ∞ + x = ∞ or NaN), and each computes the same flag
from the same mean. The flag stays on the device: no step waits for it.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ratgan.ops.precision import full_precision

Synchronize = Callable[[Iterable[nn.Parameter]], None]


def alone(parameters: Iterable[nn.Parameter]) -> None:
    """Synchronize nothing: what a single worker does with its gradients."""


def update_network(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    losses: Iterable[Tensor],
    *,
    synchronize: Synchronize = alone,
    skip: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Update a network on the sum of some losses, unless that is not finite.

    Args:
        network: Updated in place.
        optimizer: Of all its parameters; fused Adam, which takes the flag on the device.
        losses: Scalars. Each is taken when the one before has gone backward, so a generator
            holds one graph at a time.
        synchronize: Averages the gradients of the given parameters over workers.
        skip: 1 where the update is to be left out whatever its gradients, else 0; a scalar
            in float32.

    Returns:
        The norm of the gradient over workers, and 1 if the update was left out, else 0, in
        float32; both scalars on the device.
    """
    optimizer.zero_grad(set_to_none=True)
    parameters = list(network.parameters())
    total = parameters[0].new_zeros(())
    for loss in losses:
        with full_precision(loss):
            # No other gradients: D's would be thrown away in the generator's turn, so D is as
            # good as frozen there, and those of the real images in its own.
            loss.backward(inputs=parameters)
            total += loss.detach()
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:
            # The penalty does not depend on biases without an activation after them. Its
            # gradient there is zero, and Adam must see it to forget their second moment.
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    # A loss can overflow where its gradient does not: 0 · ∞ is NaN, and other losses add nothing.
    gradients[0] += 0 * total
    synchronize(parameters)
    # Not only NaN and ∞: a gradient whose square overflows would stay in Adam's second moment as ∞,
    # and its weight would never move again.
    norm = torch.nn.utils.get_total_norm(gradients)
    skipped = (~norm.isfinite()).float()
    if skip is not None:
        skipped = torch.maximum(skipped, skip)
    optimizer.found_inf = skipped  # type: ignore[attr-defined]  # what GradScaler tells fused Adam
    optimizer.step()
    torch.clear_autocast_cache()  # it holds the weights from before the update
    return norm, skipped
