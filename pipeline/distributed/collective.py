"""Collective operations of the workers; with one worker they do nothing and cost nothing."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn

BUCKET_ELEMENTS = 8 * 2**20  # 32 MiB of float32 in one all-reduce

# How long this process waited for the others, as the process group belongs to it too: seconds, and
# on a GPU pairs of events that a stream passes before and after.
_waits: list[float | tuple[torch.cuda.Event, torch.cuda.Event]] = []


def rank() -> int:
    """Return the number of this worker."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world() -> int:
    """Return the number of workers."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over workers.

    Called between backward and update. A wrapper that hooks into backward would
    have to be told about the penalty's double backward and about the phase in
    which the discriminator is frozen; here neither matters.
    """
    if world() == 1:
        return
    bucket: list[Tensor] = []
    size = 0
    for parameter in parameters:
        if parameter.grad is None:
            continue
        bucket.append(parameter.grad)
        size += parameter.grad.numel()
        if size >= BUCKET_ELEMENTS:
            _average(bucket)
            bucket, size = [], 0
    if bucket:
        _average(bucket)


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its sum over workers: for a loss of the whole batch."""
    if world() == 1:
        return
    held = list(parameters)
    average_gradients(held)
    torch._foreach_mul_([p.grad for p in held if p.grad is not None], world())


def _average(gradients: list[Tensor]) -> None:
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    with _waiting(flat):
        distributed.all_reduce(flat)
    flat /= world()
    parts = flat.split([gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(parts, gradients, strict=True)])


def gather(share: Tensor) -> Tensor:
    """Put the shares of all workers together in the order of their ranks: [b, …] to [B, …]."""
    if world() == 1:
        return share
    parts = [torch.empty_like(share) for _ in range(world())]
    with _waiting(share):
        distributed.all_gather(parts, share.contiguous())
    return torch.cat(parts)


def gather_on(device: torch.device, share: Tensor) -> Tensor:
    """Gather shares that are on the CPU, by way of the device; alone, nothing waits for it."""
    return share if world() == 1 else gather(share.to(device)).cpu()


def gather_with_gradient(share: Tensor) -> Tensor:
    """Put all shares together; a gradient flows into this worker's own and no further."""
    if world() == 1:
        return share
    parts = list(gather(share.detach()).chunk(world()))
    parts[rank()] = share
    return torch.cat(parts)


def mean(values: Tensor) -> Tensor:
    """Average values over workers."""
    if world() == 1:
        return values
    total = values.clone()
    distributed.all_reduce(total)
    return total / world()


def from_rank_zero(number: int, device: torch.device) -> int:
    """Give every worker the number that worker 0 has."""
    value = torch.tensor(number, device=device)
    if world() > 1:
        distributed.broadcast(value, 0)
    return int(value)


def any_of(flag: bool, device: torch.device) -> bool:
    """Tell every worker whether any of them has the flag up."""
    if world() == 1:
        return flag
    value = torch.tensor(float(flag), device=device)
    with _waiting(value):
        distributed.all_reduce(value)
    return bool(value)


def waited_s() -> float:
    """Return how long this worker has waited for others in steps since it was last asked, in s.

    On a GPU it is the stream that waits, and this waits for the stream.
    """
    total = 0.0
    for wait in _waits:
        if isinstance(wait, tuple):
            wait[1].synchronize()
            total += wait[0].elapsed_time(wait[1]) / 1e3
        else:
            total += wait
    _waits.clear()
    return total


@contextmanager
def _waiting(tensor: Tensor) -> Iterator[None]:
    """Measure how long others are waited for inside ``with``, without waiting for the device."""
    if tensor.is_cuda:
        events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        events[0].record()
        yield
        events[1].record()
        _waits.append(events)
    else:
        started = time.perf_counter()
        yield
        _waits.append(time.perf_counter() - started)
