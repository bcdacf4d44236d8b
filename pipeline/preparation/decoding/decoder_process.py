"""The child process that decodes originals; `isolated_decoder.py` starts it and asks it.

It handles foreign data, so it takes and gives nothing but bytes and JSON. Only Pillow is imported:
it must start in a moment, for any image may be the last of one.
"""

import contextlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.common.parent_process import end_with
from pipeline.preparation.decoding.images import (
    MAX_BYTES,
    MAX_PIXELS,
    RejectedError,
    to_square_jpeg,
)

Answer = Callable[[dict[str, Any], bytes], tuple[dict[str, Any], bytes]]
READY = b"ready"


def main() -> None:
    """Decode one image after the other until the parent is gone."""
    # Pillow refuses at twice this, and for some formats earlier than it tells a size.
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
    serve(lambda _connection: _answer)


def serve(start: Callable[[Connection], Answer]) -> None:
    """Answer one request after the other, within the limits that the parent gave.

    Args:
        start: Takes the line to the parent and returns what answers a request and its content.
    """
    options = json.loads(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process when it is time to
    if options["parent"] is not None:
        end_with(options["parent"])
    _limit(options["memory_bytes"])
    connection = Connection(options["connection"])
    # Until here the parent wants to know of errors; what decoders print is of foreign data.
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)
    with contextlib.suppress(EOFError, ConnectionError):
        answer_to = start(connection)
        connection.send_bytes(READY)
        while True:
            request = json.loads(connection.recv_bytes())
            content = connection.recv_bytes(MAX_BYTES)
            # A parent that was killed holds no watch, and a decoder in a loop sees no end of file.
            signal.setitimer(signal.ITIMER_REAL, 2 * options["deadline_s"])
            answer, found = answer_to(request, content)
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.send_bytes(json.dumps(answer).encode())
            connection.send_bytes(found)


def _answer(request: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
    try:
        jpeg, width, height = to_square_jpeg(content, **request)
    except RejectedError as problem:
        return {"reason": problem.reason, "detail": problem.detail}, b""
    except MemoryError:
        return {"reason": "IMG_TOO_LARGE", "detail": "it takes more memory than there is"}, b""
    except Exception as error:  # not the image's fault: for the one who asked
        return {"error": f"{type(error).__name__}: {error}"}, b""
    return {"width": width, "height": height}, jpeg


def _limit(memory_bytes: int) -> None:
    """Let memory run out here, not on the machine; and leave no core file of a dead decoder."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = Path("/proc/self/statm")
    if pages.exists():  # elsewhere the limit is not kept, or cannot be set to more than is in use
        now = int(pages.read_text().split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        limit = (
            now + memory_bytes if most == resource.RLIM_INFINITY else min(now + memory_bytes, most)
        )
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
