"""A proxy that stands before an HTTP server and does to its clients what networks do.

    with ChaosProxy(host, port) as proxy:
        proxy.inject("503", times=3)
        …  # the next three requests to proxy.url are answered 503, the rest pass

Faults are per request: each answer closes its connection, so a kept-alive connection
never carries a second request past a fault.
"""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

ANSWERS = {
    "401": ("401 Unauthorized", "Unauthorized", "Who are you?"),
    "403": ("403 Forbidden", "AccessDenied", "Access Denied"),
    "404": ("404 Not Found", "NotFound", "Nothing is here."),
    "409": ("409 Conflict", "ConcurrentModification", "Another write is under way."),
    "413": ("413 Content Too Large", "EntityTooLarge", "That is too much."),
    "412": ("412 Precondition Failed", "PreconditionFailed", "It did not hold."),
    "429": ("429 Too Many Requests", "TooManyRequests", "Slow down."),
    "500": ("500 Internal Server Error", "InternalError", "We encountered an internal error."),
    "501": ("501 Not Implemented", "NotImplemented", "A header you provided is not known here."),
    "503": ("503 Slow Down", "SlowDown", "Please reduce your request rate."),
}
FAULTS = {
    *ANSWERS,
    "hang",  # takes the request and says nothing
    "reset",  # takes the request and resets the connection
    "cut",  # passes on `size` bytes of the answer's body
    "cut_upload",  # passes on `size` bytes of the request's body, and both ends are reset
    "lost_answer",  # lets the server do it, and resets the connection before the answer
    "slow",  # waits `size` milliseconds before the answer
}


@dataclass
class Fault:
    """What happens to the next requests that match."""

    kind: str
    times: int
    size: int
    when: Callable[["Request"], bool]


@dataclass
class Request:
    """A request as the client sent it; header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = field(repr=False)
    head: bytes = field(repr=False)


class ChaosProxy:
    """A TCP proxy in threads of its own.

    Args:
        host: Where the server listens.
        port: Where the server listens.
    """

    def __init__(self, host: str, port: int) -> None:
        self.upstream = (host, port)
        self.requests: list[Request] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._held: list[socket.socket] = []
        self._listener: socket.socket | None = None
        # It never listens. While nothing else does, nobody else can take the port.
        self._place = socket.socket()
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._place.bind(("127.0.0.1", 0))
        self.port = self._place.getsockname()[1]
        self.listen()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "ChaosProxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self.clear()
        self._place.close()

    def inject(
        self,
        kind: str,
        times: int = 1,
        size: int = 0,
        when: Callable[[Request], bool] = lambda request: True,
    ) -> None:
        """Let the next `times` requests that match fail; what was injected first comes first."""
        if kind not in FAULTS:
            raise ValueError(f"fault {kind!r} is not one of {sorted(FAULTS)}.")
        with self._lock:
            self._faults.append(Fault(kind, times, size, when))

    def clear(self) -> None:
        """Forget faults that are still to come, and the requests that were seen."""
        with self._lock:
            self._faults.clear()
            self.requests.clear()
            self._release()

    def _release(self) -> None:
        """Close the connections that hang."""
        while self._held:
            self._held.pop().close()

    def refuse(self) -> None:
        """Refuse connections until `listen`."""
        if self._listener:
            # Without the shutdown, the thread in accept() would take one more.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None

    def listen(self) -> None:
        """Take connections, always on the same port; nothing changes if it does already."""
        if self._listener:
            return
        self._listener = socket.create_server(
            ("127.0.0.1", self.port), backlog=128, reuse_port=True
        )
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed by refuse()
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            request = read_request(client)
            if request is None:
                client.close()
                return
            fault = self._next_fault(request, client)
            if fault.kind in ANSWERS:
                client.sendall(error_answer(fault.kind, request.method))
            elif fault.kind == "hang":
                return
            elif fault.kind == "reset":
                reset(client)
            else:
                self._forward(request, client, fault)
            client.close()

    def _next_fault(self, request: Request, client: socket.socket) -> Fault:
        with self._lock:
            self.requests.append(request)
            for fault in self._faults:
                if fault.times > 0 and fault.when(request):
                    fault.times -= 1
                    if fault.kind == "hang":  # here, or `clear` could miss it
                        self._held.append(client)
                    return fault
        return Fault("pass", 1, 0, lambda request: True)

    def _forward(self, request: Request, client: socket.socket, fault: Fault) -> None:
        with socket.create_connection(self.upstream, timeout=60) as server:
            if fault.kind == "cut_upload":
                server.sendall(request.head + request.body[: fault.size])
                reset(client)
                reset(server)
                return
            server.sendall(request.head + request.body)
            answer = b"".join(iter(lambda: server.recv(2**16), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        if fault.kind == "lost_answer":
            reset(client)
            return
        if fault.kind == "slow":
            time.sleep(fault.size / 1000)
        sent = body[: fault.size] if fault.kind == "cut" else body
        client.sendall(head + b"\r\n\r\n" + sent)


def read_request(client: socket.socket) -> Request | None:
    """Read a whole request; None if the client leaves before."""
    with client.makefile("rb") as stream:
        return _parse(client, stream)


def _parse(client: socket.socket, stream: BinaryIO) -> Request | None:
    lines = []
    while (line := stream.readline()) not in (b"\r\n", b""):
        lines.append(line)
    if not lines or not line:
        return None
    method, path, _ = lines[0].decode().split(" ", 2)
    pairs = [text.decode("latin-1").split(":", 1) for text in lines[1:]]
    headers = {name.strip().lower(): value.strip() for name, value in pairs}
    if headers.get("expect") == "100-continue":
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = b""
        while True:
            size = stream.readline()
            body += size + stream.read(int(size, 16) + 2)
            if int(size, 16) == 0:
                break
    else:
        body = stream.read(int(headers.get("content-length", 0)))
    kept = [
        text for text in lines[1:] if text.split(b":")[0].lower() not in (b"expect", b"connection")
    ]
    head = b"".join([lines[0], *kept, b"Connection: close\r\n\r\n"])
    return Request(method, path, headers, body, head)


def error_answer(kind: str, method: str) -> bytes:
    """An error as S3 words it; HTTP clients of other services read its status."""
    status, code, message = ANSWERS[kind]
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code>'
        f"<Message>{message}</Message><RequestId>chaos</RequestId></Error>"
    )
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
        f"Connection: close\r\n\r\n{'' if method == 'HEAD' else body}"
    ).encode()


def reset(connection: socket.socket) -> None:
    """Close with RST, as a firewall or a dead process does, not with FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
