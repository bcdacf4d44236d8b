"""Decode in a disposable child process: an image that kills it costs one row, never the job."""

import atexit
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

from pipeline.common.console import printable
from pipeline.preparation.decoding import images
from pipeline.preparation.decoding.decoder_process import READY
from pipeline.preparation.decoding.images import Box, RejectedError, SquareJpeg, check_bytes

REASONS = images.REASONS | {"IMG_CRASH", "IMG_TIMEOUT"}
START_S = 60  # it takes 0.1 s; a busy machine or a network file system takes its time
# Memory the child keeps (glibc's malloc would give it back after each image and fetch it again:
# 350 page faults an image, 20 % of the time an image of COCO takes).
MALLOC = {
    "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    # Arrow's own allocators reserve addresses by the gigabyte, which the limit counts.
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
MAX_ANSWER = 16 * 2**10  # bytes
MAX_JPEG = 64 * 2**20  # bytes
CHILD = "pipeline.preparation.decoding.decoder_process"  # the module that is run

_lock = threading.Lock()
_children: "dict[Limits, _Child]" = {}  # of this process


class Limits(Protocol):
    """What a child is started with."""

    @property
    def module(self) -> str:
        """What it runs."""

    @property
    def deadline_s(self) -> float:
        """Seconds that it may be silent over a request."""

    @property
    def memory_bytes(self) -> int:
        """What it may take above what it starts with."""


@dataclass(frozen=True)
class Decoder:
    """Goes from originals to what a dataset keeps of them, in a child process.

    It holds four numbers and crosses processes freely; the child is started by the first image, in
    whichever process that is, serves all that follow, and ends with that process.

    Attributes:
        size: Height and width of the results in pixels.
        quality: Of the JPEGs, 1 to 100.
        deadline_s: Seconds an image may take. 50 megapixels take 2.
        memory_bytes: What decoding may take.
    """

    size: int
    quality: int
    deadline_s: float = 20.0
    memory_bytes: int = 2 * 2**30

    def __post_init__(self) -> None:
        if self.deadline_s < 0.001:
            raise ValueError(f"deadline_s={self.deadline_s} must be 0.001 s or more; 20 works.")

    def __call__(self, content: bytes, box: Box | None = None) -> SquareJpeg:
        """Do what `pipeline.preparation.decoding.images.to_square_jpeg` does.

        Raises:
            RejectedError: As there; also `IMG_TIMEOUT` if it took too long, and `IMG_CRASH` if the
                child ended over it. The next image gets a fresh child.
            RuntimeError: If no child can be started, or it failed for no fault of the image.
        """
        check_bytes(content)
        request = {"size": self.size, "quality": self.quality, "box": box}
        with _lock:
            answer, jpeg = child_of(self).ask(request, content)
        # It comes from a process that foreign data may have taken over.
        match answer:
            case {"width": int(width), "height": int(height)}:
                return SquareJpeg(jpeg, width, height)
            case {"reason": str(reason), "detail": str(detail)} if reason in images.REASONS:
                raise RejectedError(reason, detail)
            case {"error": str(error)}:
                raise RuntimeError(f"the image decoder failed: {printable(error)}")
        raise RejectedError("IMG_CRASH", "the decoder gave an answer that is none")

    @property
    def module(self) -> str:
        """What the child runs."""
        return CHILD

    @property
    def pid(self) -> int | None:
        """Process id of this process's child, for those who watch it; None if there is none."""
        child = _children.get(self)
        return child.process.pid if child is not None and child.is_running() else None


def child_of(limits: Limits) -> "_Child":
    """Return this process's child of that kind, started anew if it has ended."""
    child = _children.get(limits)
    if child is None or not child.is_running():
        child = _children[limits] = _start(limits)
    return child


def _start(decoder: Limits) -> "_Child":
    """Start a child; twice, for the first may have been hit by something that has passed."""
    try:
        return _Child(decoder)
    except ChildProcessError:
        try:
            return _Child(decoder)
        except ChildProcessError as error:
            raise RuntimeError(
                f"the decoder cannot be started, twice in a row: {error}. `python -c 'import "
                f"{decoder.module}'` in the same environment must work, and the machine must have "
                f" {decoder.memory_bytes / 2**30:g} GiB of memory for it."
            ) from error


class _Child:
    """A running child and the line to it.

    Raises:
        ChildProcessError: If it does not come up.
    """

    def __init__(self, decoder: Limits) -> None:
        self.decoder = decoder
        ours, theirs = socket.socketpair()
        # A child that hangs or is stopped takes or gives no bytes. With these, reading and writing
        # raise BlockingIOError then, without a thread that watches.
        seconds = struct.pack("ll", *divmod(int(decoder.deadline_s * 1_000_000), 1_000_000))
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
        self.connection = Connection(ours.detach())
        # The kernel counts the thread that starts a child as its parent: another than the main
        # one may end before its process.
        main = threading.current_thread() is threading.main_thread()
        options = {
            "connection": theirs.fileno(),
            "parent": os.getpid() if main else None,
            "memory_bytes": decoder.memory_bytes,
            "deadline_s": decoder.deadline_s,
        }
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        with theirs, tempfile.TemporaryFile() as errors:
            self.process = subprocess.Popen(
                # -P: not whatever lies in the working directory, but what this process sees.
                [
                    sys.executable,
                    "-P",
                    "-m",
                    decoder.module,
                    json.dumps(options),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # the line is another: libraries may print
                stderr=errors,
                pass_fds=(theirs.fileno(),),
                env=os.environ | MALLOC | {"PYTHONPATH": path},
            )
            theirs.close()  # or this process would never see the end of it
            try:
                if not self.connection.poll(START_S):
                    raise ChildProcessError(f"it was not ready after {START_S} s")
                if self.connection.recv_bytes(len(READY)) != READY:
                    raise ChildProcessError("it did not say that it is ready")
            except (EOFError, ConnectionError) as error:
                self.end()
                errors.seek(0)
                said = errors.read().decode(errors="replace").strip()[-250:]
                raise ChildProcessError(f"it ended {self._how()}: {printable(said)}") from error
            except BaseException:
                self.end()
                raise

    def is_running(self) -> bool:
        return self.process.poll() is None

    def ask(
        self,
        request: dict[str, Any],
        content: bytes,
        read: Callable[[int, int], bytes] | None = None,
    ) -> tuple[dict[str, Any], bytes]:
        """Send a request and an original, and wait for what comes back.

        Args:
            request: As JSON types.
            content: The original.
            read: Reads some bytes of the original, from a place on, if the child asks for them.
        """
        storage_failed = False
        try:
            self.connection.send_bytes(json.dumps(request).encode())
            self.connection.send_bytes(content)
            answer = json.loads(self.connection.recv_bytes(MAX_ANSWER))
            while read is not None and "read" in answer:
                storage_failed = True
                part = read(*answer["read"])
                storage_failed = False
                self.connection.send_bytes(part)
                answer = json.loads(self.connection.recv_bytes(MAX_ANSWER))
            return answer, self.connection.recv_bytes(MAX_JPEG)
        except BlockingIOError as error:
            self.end()
            raise RejectedError(
                "IMG_TIMEOUT", f"not decoded within {self.decoder.deadline_s:g} s"
            ) from error
        except (EOFError, OSError, ValueError) as error:  # it ended, or talks nonsense
            self.end()
            if storage_failed:
                raise
            raise RejectedError("IMG_CRASH", f"the decoder ended {self._how()}") from error
        except BaseException:
            # Whatever interrupts this process, an answer that comes late must not be taken for
            # that to another image.
            self.end()
            raise

    def end(self) -> None:
        """End it, wherever it is."""
        self.connection.close()
        self.process.kill()
        self.process.wait()

    def _how(self) -> str:
        status = self.process.returncode
        if status >= 0:
            return f"with status {status}"
        return f"by signal {signal.Signals(-status).name}"


def end_children() -> None:
    """End the children of this process; the next image starts another."""
    while _children:
        _children.popitem()[1].end()


def _forget_children() -> None:
    """In a forked copy of this process: they are not its own."""
    global _lock
    _lock = threading.Lock()
    _children.clear()


atexit.register(end_children)
os.register_at_fork(after_in_child=_forget_children)
