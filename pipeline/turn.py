"""The right to send a run's records, which one process at a time has."""

import fcntl
import os
import time
import uuid
from pathlib import Path
from typing import Any

from pipeline.storage import Folder

LEASE_S = 120.0  # how long a process that went silent keeps others from sending to a bucket


class Turn:
    """A lock that its holder's death gives back.

    On a local disk the operating system keeps it. In a bucket it is an object that says whose
    turn it is and until when. Two that take it in the same moment see each other in all but
    the strangest cases, and both sending does no harm then: what they send is equal.

    Args:
        folder: Of the spool.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._owner = uuid.uuid4().hex
        self._descriptor: int | None = None
        self._until = 0.0

    def take(self) -> bool:
        """Take the turn, or keep it; False if another process has it."""
        return self._lock() if self.folder.is_local else self._lease()

    def give_back(self) -> None:
        """Let others take it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        if self._until > time.time():
            self.folder.write_json("turn.json", {"owner": self._owner, "until": 0})
            self._until = 0.0

    def _lock(self) -> bool:
        if self._descriptor is not None:
            return True
        path = Path(self.folder.file("turn"))
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def _lease(self) -> bool:
        now = time.time()
        if self._until - now > LEASE_S / 2:
            return True
        found = self._holder()
        if found["owner"] != self._owner and found["until"] > now:
            return False
        self.folder.write_json("turn.json", {"owner": self._owner, "until": now + LEASE_S})
        if found["owner"] != self._owner:
            time.sleep(1)  # who read the object before we wrote it has written it by then
            if self._holder()["owner"] != self._owner:
                return False
        self._until = now + LEASE_S
        return True

    def _holder(self) -> dict[str, Any]:
        if not self.folder.exists("turn.json"):
            return {"owner": None, "until": 0}
        holder: dict[str, Any] = self.folder.read_json("turn.json")
        return holder
