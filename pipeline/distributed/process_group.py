"""Set up the process group over the network that the workers' nodes share.

Torch's store would listen on all addresses of a machine, and neither it nor gloo nor NCCL asks who
is there: so they listen where the other workers come from and nowhere else. On one machine that is
127.0.0.1. On several it is the address of each node: gloo would take the one that the machine's own
name leads to, which on many systems is 127.0.0.1 or 127.0.1.1, and workers would each wait for the
others at home.
"""

import contextlib
import os
import socket
from collections.abc import Iterator

import psutil
import ray.util
from ray.train.torch import TorchConfig, config
from ray.train.torch.config import _TorchBackend
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from pipeline.ray_cluster.loopback import ADDRESS

GLOO, NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"  # interfaces on which they listen

_opened: list[TCPStore] = []  # of this process; torch ends a store that nobody holds


class NetworkTorchConfig(TorchConfig):  # type: ignore[misc]
    """Ray's configuration of a group of processes, of which several machines can be part."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What Ray sets the group up with."""
        return _Backend


class _Backend(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: object, backend_config: TorchConfig) -> None:
        execute = worker_group.execute  # type: ignore[attr-defined]
        several = len(set(execute(ray.util.get_node_ip_address))) > 1
        execute(meet_at, "" if several else ADDRESS)
        with _store_at("" if several else ADDRESS):
            super().on_start(worker_group, backend_config)


@contextlib.contextmanager
def _store_at(address: str) -> Iterator[None]:
    """Let Ray find the store open where it asks worker 0 for an address and a free port."""

    def open_there() -> tuple[str, int]:
        return open_store(address)

    original = config.get_address_and_port
    config.get_address_and_port = open_there
    try:
        yield
    finally:
        config.get_address_and_port = original


def open_store(address: str) -> tuple[str, int]:
    """Open the store of a group of processes at one address only, at a free port.

    Torch takes the store that its process has at a port already; by itself it would open one on
    all addresses.

    Args:
        address: To listen at; empty for that of this process's node.

    Returns:
        Address and port.
    """
    address = address or ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, 0), family=family)
    port = int(listener.getsockname()[1])
    store = TCPStore(
        address,
        port,
        is_master=True,
        wait_for_workers=False,
        multi_tenant=True,
        master_listen_fd=listener.detach(),  # the store closes it
    )
    _opened.append(store)
    return address, port


def meet_at(address: str) -> None:
    """Let this process meet others on the network of an address, unless it was told where.

    Args:
        address: On this machine; empty for that of this process's node.
    """
    os.environ.setdefault("NCCL_RAS_ENABLE", "0")  # tells whoever asks at port 28028 how NCCL is
    if name := interface_of(address or ray.util.get_node_ip_address()):
        # Between machines NCCL finds the fastest network itself.
        for variable in (GLOO, NCCL) if address else (GLOO,):
            os.environ.setdefault(variable, name)


def interface_of(address: str) -> str | None:
    """Return the name of this machine's network interface with an address, if there is one."""
    for name, places in psutil.net_if_addrs().items():
        if address in (place.address for place in places):
            return str(name)
    return None
