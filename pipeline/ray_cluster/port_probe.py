"""Probe whether a Ray port requires a token.

Ray answers in two ways: by HTTP (dashboard, agents) and by gRPC (the head's store, the nodes'
managers, every worker process). Both are asked for something harmless.
"""

import enum
import os
import socket
from dataclasses import dataclass

import grpc

from pipeline.ray_cluster.token_file import token_path

TIMEOUT_S = 5.0
NO_PROXY = [("grpc.enable_http_proxy", 0)]  # one that the environment names reaches no such port
# One request for each service of Ray, which changes nothing; the first is answered by every head.
NODES = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
REQUESTS = (
    NODES,
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.CoreWorkerService/NumPendingTasks",
    "/ray.rpc.ReporterService/HealthCheck",
    "/ray.rpc.LogService/ListLogs",
    "/ray.rpc.RayletDriver/ClusterInfo",
)


class Answer(enum.Enum):
    """What comes back."""

    REFUSED = "refuses strangers"
    OPEN = "lets everybody in"
    CLOSED = "nobody listens"
    UNCLEAR = "does not say that it refuses strangers"


@dataclass(frozen=True)
class Endpoint:
    """A port at an address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def knock(door: Endpoint) -> Answer:
    """Ask for something without a token."""
    said = _by_http(door)
    return _by_grpc(door, REQUESTS) if said is Answer.UNCLEAR else said


def ask_head(door: Endpoint, token: str = "") -> Answer:
    """Ask a cluster's head for its nodes, as a driver does that joins.

    Args:
        door: Where it listens.
        token: Shown if it is not empty.
    """
    try:
        socket.create_connection((door.host, door.port), TIMEOUT_S).close()
    except OSError:
        return Answer.CLOSED
    return _by_grpc(door, (NODES,), token)


def count_nodes(door: Endpoint, token: str) -> int:
    """Return how many nodes a cluster's head counts as alive; 0 if it does not answer."""
    from ray.core.generated import gcs_pb2, gcs_service_pb2  # takes a second to import

    try:
        with grpc.insecure_channel(str(door), options=NO_PROXY) as channel:
            said = channel.unary_unary(NODES)(b"", timeout=TIMEOUT_S, metadata=_shown(token))
    except grpc.RpcError:
        return 0
    found = gcs_service_pb2.GetAllNodeInfoReply.FromString(said).node_info_list
    return sum(node.state == gcs_pb2.GcsNodeInfo.ALIVE for node in found)


def own_token() -> tuple[str, str]:
    """Return the token that Ray finds in this process, and where; both empty if there is none."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token, "RAY_AUTH_TOKEN"
    try:
        path = token_path()
        token = path.read_text().strip()
    except (OSError, ValueError):
        return "", ""
    return token, str(path) if token else ""


def _by_http(door: Endpoint) -> Answer:
    """Ask by HTTP; unclear if that is not what is spoken there."""
    request = f"GET /api/version HTTP/1.1\r\nHost: {door}\r\nConnection: close\r\n\r\n"
    try:
        with socket.create_connection((door.host, door.port), TIMEOUT_S) as connection:
            connection.sendall(request.encode())
            said = connection.recv(64)
    except ConnectionRefusedError:
        return Answer.CLOSED
    except OSError:
        return Answer.UNCLEAR
    protocol, _, rest = said.partition(b" ")
    if not protocol.startswith(b"HTTP/1."):
        return Answer.UNCLEAR
    return Answer.REFUSED if rest[:3] in (b"401", b"403") else Answer.OPEN


def _by_grpc(door: Endpoint, requests: tuple[str, ...], token: str = "") -> Answer:
    """Ask by gRPC, request by request: refused if one was refused and none was answered."""
    refused = False
    with grpc.insecure_channel(str(door), options=NO_PROXY) as channel:
        for request in requests:
            call = channel.unary_unary(request)
            try:
                call(b"", timeout=TIMEOUT_S, metadata=_shown(token))
            except grpc.RpcError as error:
                code = error.code()
                refused = refused or code in (
                    grpc.StatusCode.UNAUTHENTICATED,
                    grpc.StatusCode.PERMISSION_DENIED,
                )
                if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    break  # nobody there speaks gRPC
            else:
                return Answer.OPEN
    return Answer.REFUSED if refused else Answer.UNCLEAR


def _shown(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),) if token else ()
