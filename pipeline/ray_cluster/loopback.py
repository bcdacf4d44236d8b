"""Keep a Ray cluster of one machine on 127.0.0.1, the ports of its nodes too.

By default a node has the machine's address in its network, and its store, managers and workers
listen on all networks. Only a node with the address 127.0.0.1 listens on loopback alone. On Linux,
Ray accepts this address only if multi-node clusters are disabled, as on other systems. So
`ENVIRONMENT` disables them, and `ray start` calls `stay` (RAY_START_HOOK) to permit more nodes.
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
# For every process of a Ray that other machines and users must not reach.
ENVIRONMENT = {
    constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",
    # The interface on which training processes connect to each other.
    "GLOO_SOCKET_IFNAME": _INTERFACE,
    "NCCL_SOCKET_IFNAME": _INTERFACE,
    # Ray's metrics require no token. Two of their ports have no switch, but an invalid port
    # disables them.
    "RAY_enable_metrics_collection": "0",
    "DASHBOARD_METRIC_PORT": "-1",
    "AUTOSCALER_METRIC_PORT": "-1",
}
START_HOOK = {constants.RAY_START_HOOK: f"{__name__}.stay"}


def stay(parameters: Any, head: bool) -> None:
    """Let `ray start` add a node to a cluster on loopback, without the port of Ray Client.

    Args:
        parameters: Ray's parameters of the node, with the loopback address.
        head: Whether it is the first node.

    Raises:
        ValueError: If the node was given another address.
    """
    if parameters.node_ip_address != ADDRESS:
        raise ValueError(
            f"a node of this cluster is at {ADDRESS}, not {parameters.node_ip_address}."
        )
    parameters.ray_client_server_port = None  # it is not used, and no option disables it
    constants.ENABLE_RAY_CLUSTER = True  # otherwise Ray refuses the second node
    services.get_node_ip_address = lambda address=None: ADDRESS
