"""Set up the process group over the network that the workers' nodes share.

Gloo listens where the machine's own name leads to, which on many systems is 127.0.0.1 or 127.0.1.1:
workers on several machines would then each wait for the others at home.
"""

import os

import psutil
import ray.util
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

INTERFACE = "GLOO_SOCKET_IFNAME"


class NetworkTorchConfig(TorchConfig):  # type: ignore[misc]
    """Ray's configuration of a group of processes, of which several machines can be part."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What Ray sets the group up with."""
        return _Backend


class _Backend(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: object, backend_config: TorchConfig) -> None:
        execute = worker_group.execute  # type: ignore[attr-defined]
        # On one machine they meet where nobody else can listen.
        if len(set(execute(ray.util.get_node_ip_address))) > 1:
            execute(meet_on_network)
        super().on_start(worker_group, backend_config)


def meet_on_network() -> None:
    """Let this process meet others on the network its node is on, unless it was told where."""
    if name := interface_of(ray.util.get_node_ip_address()):
        os.environ.setdefault(INTERFACE, name)


def interface_of(address: str) -> str | None:
    """Return the name of this machine's network interface with an address, if there is one."""
    for name, places in psutil.net_if_addrs().items():
        if address in (place.address for place in places):
            return str(name)
    return None
