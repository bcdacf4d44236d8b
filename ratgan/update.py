"""One update of one network, which all workers skip if it is not finite.

The workers agree on this without communication. A number that is not finite is in the gradient, the
mean over workers carries it to all of them (NaN + x = NaN, ∞ + x = ∞ or NaN), and each computes the
same flag from the same mean. The flag stays on the device: no step waits for it.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ratgan.ops.precision import full_precision

Synchronize = Callable[[Iterable[nn.Parameter]], None]


def alone(parameters: Iterable[nn.Parameter]) -> None:
    """Synchronize nothing, for a single worker."""


def update_network(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    losses: Iterable[Tensor],
    *,
    synchronize: Synchronize = alone,
    skip: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Update a network on the sum of some losses, unless it is not finite.

    Args:
        network: Updated in place.
        optimizer: Optimizer of all its parameters; fused Adam, which reads the flag on the device.
        losses: Scalars. The next one is requested after the backward pass of the last one, so an
            iterator holds one graph at a time.
        synchronize: Averages the gradients of the given parameters over workers.
        skip: 1 to skip the update whatever its gradients, otherwise 0; a scalar in float32.

    Returns:
        The norm of the gradient over workers, and 1 if the update was skipped, otherwise 0, in
        float32; both scalars on the device.
    """
    optimizer.zero_grad(set_to_none=True)
    parameters = list(network.parameters())
    total = parameters[0].new_zeros(())
    for loss in losses:
        with full_precision(loss):
            # Only these gradients: the generator's update does not need those of D, and D's does
            # not need those of the real images.
            loss.backward(inputs=parameters)
            total += loss.detach()
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:
            # The penalty does not depend on biases without an activation after them. Adam needs
            # their zero gradient, so that their second moment decays.
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    # A loss can overflow when its gradient does not: 0 · ∞ is NaN, and other losses add 0.
    gradients[0] += 0 * total
    synchronize(parameters)
    # Not only NaN and ∞: a gradient whose square overflows would leave ∞ in Adam's second moment,
    # and its weight would never change again.
    norm = torch.nn.utils.get_total_norm(gradients)
    skipped = (~norm.isfinite()).float()
    if skip is not None:
        skipped = torch.maximum(skipped, skip)
    optimizer.found_inf = skipped  # type: ignore[attr-defined]  # as GradScaler does for fused Adam
    optimizer.step()
    torch.clear_autocast_cache()  # it has the weights before the update
    return norm, skipped
