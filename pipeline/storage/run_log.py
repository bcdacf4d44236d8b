"""The log of a work in its folder, `log.txt`: the lines that the screen takes no more."""

import contextlib
import os
import threading

from pipeline.common.screen import log_to
from pipeline.storage.folder import Folder

LOG = "log.txt"
KEEP_EVERY_S = 10.0  # an object store cannot append: there the log is written anew, now and then


def keep_log(folder: Folder) -> None:
    """Let what the screen of this process takes no more go to the log in a folder.

    There is no file as long as the screen is well. A log that cannot be written stops nothing.
    """
    log = _Log(folder)
    log_to(f"{folder}/{LOG}", log.append, log.keep)


class _Log:
    def __init__(self, folder: Folder) -> None:
        self.folder, self._waiting = folder, ""
        self._lock = threading.Lock()  # of what waits
        self._keeping = threading.Lock()
        self._timer: threading.Timer | None = None

    def append(self, text: str) -> None:
        place = self.folder.local_path
        if place is not None:
            with contextlib.suppress(OSError, ValueError):  # ValueError: a link leads elsewhere
                os.makedirs(place, exist_ok=True)
                with open(self.folder.file(LOG), "a", encoding="utf-8", errors="replace") as file:
                    file.write(text)
            return
        with self._lock:
            self._waiting += text
            if self._timer is None:
                self._timer = threading.Timer(KEEP_EVERY_S, self.keep)
                self._timer.daemon = True
                self._timer.start()

    def keep(self) -> None:
        """Write to an object store what waits for it."""
        with self._keeping:
            with self._lock:
                text, self._waiting, self._timer = self._waiting, "", None
            if not text:
                return
            try:
                before = self.folder.read(LOG) if self.folder.exists(LOG) else b""
                self.folder.write(LOG, before + text.encode(errors="replace"))
            except Exception:  # each object store has errors of its own
                with self._lock:
                    self._waiting = text + self._waiting  # for the next time
