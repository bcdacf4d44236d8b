"""Collective operations of the workers; with one worker they do nothing and cost nothing."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn

BUCKET_ELEMENTS = 8 * 2**20  # 32 MiB of float32 in one all-reduce

# How long this process waited for the others: seconds, and on a GPU pairs of events around each
# wait. A global, because the process group is one too.
_waits: list[float | tuple[torch.cuda.Event, torch.cuda.Event]] = []


def rank() -> int:
    """Return the rank of this worker."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world() -> int:
    """Return the number of workers."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over workers.

    Called between backward and update. A wrapper with hooks in backward would need special cases
    for the penalty's double backward and for the frozen discriminator.
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
    """Gather shares that are on the CPU through the device; one worker does not use the device."""
    return share if world() == 1 else gather(share.to(device)).cpu()


def gather_with_gradient(share: Tensor) -> Tensor:
    """Put all shares together; gradients flow only into the share of this worker."""
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
    """Return the number of rank 0 in every worker."""
    value = torch.tensor(number, device=device)
    if world() > 1:
        distributed.broadcast(value, 0)
    return int(value)


def any_of(flag: bool, device: torch.device) -> bool:
    """Return in every worker whether the flag of any worker is true."""
    if world() == 1:
        return flag
    value = torch.tensor(float(flag), device=device)
    with _waiting(value):
        distributed.all_reduce(value)
    return bool(value)


def waited_s() -> float:
    """Return the seconds that this worker waited for others in steps since the last call.

    On a GPU the stream waits, and this function synchronizes with it.
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
    """Measure the wait for other workers inside ``with``, without synchronizing the device."""
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
