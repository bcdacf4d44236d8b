"""Probe whether a Ray port requires a token.

Ray's ports use HTTP (dashboard, agents) or gRPC (the head's store, the nodes' managers, every
worker process). The probe sends harmless requests of both kinds.
"""

import enum
import os
import socket
from dataclasses import dataclass

import grpc

from pipeline.ray_cluster.token_file import token_path

TIMEOUT_S = 5.0
NO_PROXY = [("grpc.enable_http_proxy", 0)]  # a proxy of the environment cannot reach these ports
# One read-only request for each service of Ray; every head answers the first one.
NODES = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
REQUESTS = (
    NODES,
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.CoreWorkerService/NumPendingTasks",
    "/ray.rpc.ReporterService/HealthCheck",
    "/ray.rpc.LogService/ListLogs",
    "/ray.rpc.RayletDriver/ClusterInfo",
    "/ray.serve.ASGIService/HandleRequest",
)


class Answer(enum.Enum):
    """The result of a probe."""

    REFUSED = "requires a token"
    OPEN = "answers without a token"
    CLOSED = "is closed"
    UNCLEAR = "does not confirm that it requires a token"


@dataclass(frozen=True)
class Endpoint:
    """A port at an address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def knock(door: Endpoint) -> Answer:
    """Probe a port without a token."""
    said = _by_http(door)
    return _by_grpc(door, REQUESTS) if said is Answer.UNCLEAR else said


def ask_head(door: Endpoint, token: str = "") -> Answer:
    """Ask a cluster's head for its nodes, as a driver does; sends `token` if it is not empty."""
    try:
        socket.create_connection((door.host, door.port), TIMEOUT_S).close()
    except OSError:
        return Answer.CLOSED
    return _by_grpc(door, (NODES,), token)


def count_nodes(door: Endpoint, token: str) -> int:
    """Return the number of live nodes that a cluster's head reports; 0 if it does not answer."""
    from ray.core.generated import gcs_pb2, gcs_service_pb2  # takes a second to import

    try:
        with grpc.insecure_channel(str(door), options=NO_PROXY) as channel:
            said = channel.unary_unary(NODES)(b"", timeout=TIMEOUT_S, metadata=_shown(token))
    except grpc.RpcError:
        return 0
    found = gcs_service_pb2.GetAllNodeInfoReply.FromString(said).node_info_list
    return sum(node.state == gcs_pb2.GcsNodeInfo.ALIVE for node in found)


def own_token() -> tuple[str, str]:
    """Return the token that Ray uses in this process, and its place; empty if there is none."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token, "RAY_AUTH_TOKEN"
    try:
        path = token_path()
        token = path.read_text().strip()
    except (OSError, ValueError):
        return "", ""
    return token, str(path) if token else ""


def _by_http(door: Endpoint) -> Answer:
    """Probe with HTTP; unclear if the port does not answer with HTTP."""
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
    """Probe with gRPC requests; refused if one was refused and none was answered."""
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
                    break  # the port does not use gRPC
            else:
                return Answer.OPEN
    return Answer.REFUSED if refused else Answer.UNCLEAR


def _shown(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),) if token else ()
