"""Counts what a computation does: floating-point operations, kernels, live memory.

Nothing is computed when the tensors are on the meta device, so the counts of the full
model take seconds and are the same everywhere.
"""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# Ask for memory, and start no kernel.
ALLOCATIONS = frozenset({torch.ops.aten.empty, torch.ops.aten.empty_like, torch.ops.aten.new_empty})


class Counter(TorchDispatchMode):
    """Counts operations run inside ``with``, backward included.

    torch's own `FlopCounterMode` follows modules and fails on `autograd.grad` to a leaf;
    this one uses its formulas and nothing else of it.

    Attributes:
        flops: Operations of matrix products and convolutions; a multiply-add is 2.
        products: Of each of them its operations, and the numbers it reads and writes.
        kernels: Operations that touch data, in eager mode; views are not counted.
        peak_bytes: Most memory alive at once among storages made inside ``with``.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self.products: list[tuple[int, int]] = []
        self.kernels = 0
        self.live_bytes = 0
        self.peak_bytes = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        inputs = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if _is_tensor(t)}
        result = func(*args, **kwargs)
        packet = func._overloadpacket
        if packet in flop_registry:
            flops = flop_registry[packet](*args, **kwargs, out_val=result)
            tensors = filter(_is_tensor, tree_leaves((args, kwargs, result)))
            self.flops += flops
            self.products.append((flops, sum(each.numel() for each in tensors)))
        made = [t.untyped_storage() for t in tree_leaves(result) if _is_tensor(t)]
        view = all(id(storage) in inputs for storage in made) and not func._schema.is_mutable
        if not view and packet not in ALLOCATIONS:
            self.kernels += 1
        for storage in made:
            if id(storage) not in inputs and id(storage) not in self._known:
                self._watch(storage)
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        return result

    def _watch(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        self._known.add(key)
        self.live_bytes += size

        def forget() -> None:
            self._known.discard(key)
            self.live_bytes -= size

        weakref.finalize(storage, forget)


class NoUpdate(torch.optim.Optimizer):
    """Takes Adam's place where only the networks' own work is counted."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})

    def step(self, closure: Any = None) -> Any:
        """Leave the weights as they are."""


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)
