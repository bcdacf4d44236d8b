"""Keep a Ray cluster of one machine on 127.0.0.1, the ports of its nodes too.

Ray gives a node the machine's address in its network, and then its store, managers and workers
listen on all networks; only a node whose address is 127.0.0.1 listens there alone. On Linux Ray
takes no such address for a node, but where it runs one node only (it does so on other systems) it
does. So that is what these processes are told, and `ray start` calls `stay` (RAY_START_HOOK), which
lets more nodes in.
"""

from typing import Any

import psutil
import ray._private.ray_constants as constants
import ray._private.services as services

ADDRESS = "127.0.0.1"
_INTERFACE = next(
    (
        name
        for name, addresses in psutil.net_if_addrs().items()
        if ADDRESS in (each.address for each in addresses)
    ),
    "lo",
)
# Of every process of a Ray that other machines and users must not reach.
ENVIRONMENT = {
    constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",
    # What training's processes listen on to meet each other.
    "GLOO_SOCKET_IFNAME": _INTERFACE,
    "NCCL_SOCKET_IFNAME": _INTERFACE,
    # Ray's metrics would be told to everybody. Two of their ports have no switch, but they can be
    # told to take one that there is not.
    "RAY_enable_metrics_collection": "0",
    "DASHBOARD_METRIC_PORT": "-1",
    "AUTOSCALER_METRIC_PORT": "-1",
}
START_HOOK = {constants.RAY_START_HOOK: f"{__name__}.stay"}


def stay(parameters: Any, head: bool) -> None:
    """Let `ray start` add a node to a cluster on loopback, without the port of Ray Client.

    Args:
        parameters: Of the node; its address is loopback already.
        head: Whether it is the first.

    Raises:
        ValueError: If the node was given another address.
    """
    if parameters.node_ip_address != ADDRESS:
        raise ValueError(
            f"a node of this cluster is at {ADDRESS}, not {parameters.node_ip_address}."
        )
    parameters.ray_client_server_port = None  # nothing here uses it; no option leaves it out
    constants.ENABLE_RAY_CLUSTER = True  # otherwise it refuses the second node
    services.get_node_ip_address = lambda address=None: ADDRESS
