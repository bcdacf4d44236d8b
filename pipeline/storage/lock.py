"""A lock on a folder, local or in a bucket: one owner at a time.

    with Lock(folder, "prepare") as lock:
        …
        lock.check()  # before anything that must not be done twice

The lock is the file `.lock-00000007` of the highest number. To own the folder is to
have created the next one, which only one of many can. What its owner does is in the
file, with a counter that a thread moves on while the owner lives. Numbers only grow: an
owner that is done marks its file as released and leaves it, and deletes the lower ones
when it comes. So a challenger that slept through some owners finds a higher number
than the one it made, and backs off.

No clock is compared with another. An owner is gone if its process is, where that can
be seen (the same host, boot and PID namespace), or if its counter stands still for
three of its heartbeats while a challenger watches. An owner that was only stopped
or cut off for so long learns of it at its next heartbeat, or at `check`.

Atomic on local disks (hard links) and on S3 that knows `If-None-Match`. On other file
systems two who start within the same moment may both own the folder until the next
heartbeat of one of them.
"""

import contextlib
import functools
import json
import logging
import math
import os
import re
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from pipeline.common.console import print_line, printable
from pipeline.storage.folder import Folder

logger = logging.getLogger(__name__)

HEARTBEAT_S = 10.0
MAX_HEARTBEAT_S = 60.0  # that a lock may name: it decides how long others wait
BEATS_TO_WATCH = 3
LOCK_NAME = re.compile(r"\.lock-(\d{8,})")


class FolderInUseError(ValueError):
    """Somebody else owns the folder."""


class LockLostError(RuntimeError):
    """Somebody else took the folder over, or deleted the lock."""


class Lock:
    """Owns a folder from `with` to the end of its block, in the process that entered it.

    Args:
        folder: To own; created if it does not exist.
        what: What the owner does there, for whoever comes second: "prepare".
        heartbeat_s: Time between two signs of life in seconds.
        on_lost: Called with the reason, in the heartbeat's thread, if the lock is lost.

    Attributes:
        lost: Why the lock is lost, or empty.
    """

    def __init__(
        self,
        folder: Folder,
        what: str,
        heartbeat_s: float = HEARTBEAT_S,
        on_lost: Callable[[str], None] | None = None,
    ) -> None:
        if not 0 < heartbeat_s <= MAX_HEARTBEAT_S:
            raise ValueError(
                f"heartbeat_s={heartbeat_s} must be above 0 seconds and at most "
                f"{MAX_HEARTBEAT_S:.0f}, for example 10."
            )
        self.folder, self.heartbeat_s, self.lost = folder, heartbeat_s, ""
        self.number = 0  # of the generation owned, or being created
        self._on_lost = on_lost
        self._beating: threading.Thread | None = None
        self._stop = threading.Event()
        self._writing = threading.Lock()  # a late heartbeat must not undo a release
        self._confirmed = 0.0  # when the lock was last seen to be ours, monotonic seconds
        self._content: dict[str, Any] = {
            "owner": uuid.uuid4().hex,
            **this_process(),
            "what": what,
            # Its name alone: arguments may hold secrets.
            "program": os.path.basename(sys.argv[0]) or "python",
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "heartbeat_s": heartbeat_s,
            "beat": 0,
            "released": False,
        }

    def __enter__(self) -> "Lock":
        try:
            self._acquire()
        except BaseException:  # Ctrl-C between creating the file and returning
            with contextlib.suppress(Exception):
                self._release()
            raise
        self._beating = threading.Thread(target=self._beat, name="lock-heartbeat", daemon=True)
        self._beating.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A child of a fork leaves the block too, and owns nothing.
        if os.getpid() != self._content["pid"]:
            return
        self._stop.set()
        try:
            self._release()
        except Exception as problem:  # whatever ends the block matters more
            logger.warning(
                "the lock of %s could not be released (%s); the next owner waits until it is "
                "seen that nobody holds it",
                self.folder,
                problem,
            )

    def check(self) -> None:
        """Make sure that the folder is still ours; free while heartbeats succeed.

        Raises:
            LockLostError: If it is not.
            OSError: If that cannot be told.
        """
        late = time.monotonic() - self._confirmed > 2 * self.heartbeat_s
        if late and not self.lost and os.getpid() == self._content["pid"]:
            self._look()
        if self.lost:
            raise LockLostError(
                f"{self.folder} does not belong to this {self._content['what']} any more: "
                f"{self.lost}. Nothing more is written there. Start again when it is free."
            )

    def _acquire(self) -> None:
        while True:
            found = self._numbers()
            highest = found[-1] if found else 0
            if highest:
                self._see_to(highest)
            if self._take(highest + 1):
                for number in found:
                    self.folder.delete(_name(number))
                return

    def _take(self, number: int) -> bool:
        """Try to create a generation; return whether it is ours and the highest."""
        self.number = number
        if not self.folder.create(_name(number), self._encoded()):
            # A lost answer to our own success looks the same: see whose it is.
            found = self._read(number)
            if not found or found.get("owner") != self._content["owner"]:
                self.number = 0
                return False
        if self._numbers()[-1:] == [number] and self._is_ours(number):
            self._confirmed = time.monotonic()
            return True
        # Others came and went while we slept between looking and creating.
        with contextlib.suppress(OSError):
            if self._is_ours(number):
                self.folder.delete(_name(number))
        self.number = 0
        return False

    def _see_to(self, number: int) -> None:
        """Return once a generation is nobody's; refuse while it is somebody's.

        Raises:
            FolderInUseError: If its owner lives.
        """
        found = self._read(number)
        if found is None or found.get("released"):
            return
        if process_is_gone(found):
            print_line(f"taking {self.folder} over from {_owner(found)}: that process is gone.")
            return
        patience_s = BEATS_TO_WATCH * max(_heartbeat_s(found), self.heartbeat_s)
        print_line(f"{self.folder} belongs to {_owner(found)}: watching whether that is alive …")
        give_up = time.monotonic() + patience_s
        while time.monotonic() < give_up:
            time.sleep(min(self.heartbeat_s / 10, 1.0))
            now = self._read(number)
            if now is None or now.get("released"):
                return
            if now != found:
                raise FolderInUseError(
                    f"{self.folder} is in use already, by {_owner(now)}. Wait for it, stop it, "
                    "or name another folder."
                )
            if process_is_gone(found):
                break
        print_line(
            f"taking {self.folder} over from {_owner(found)}: no sign of life in "
            f"{patience_s:.0f} s."
        )

    def _beat(self) -> None:
        while not self._stop.wait(self.heartbeat_s):
            try:
                self._look(and_beat=True)
            except Exception as error:  # storage may be away for a while: it is tried again
                logger.warning("no heartbeat to %s this time: %s", self.folder, error)
            if self.lost:
                return

    def _look(self, and_beat: bool = False) -> None:
        """See whether the lock is still ours, and sign it if so."""
        reason = ""
        with self._writing:
            if self._stop.is_set() or self.lost:
                return
            asked = time.monotonic()
            highest = self._numbers()[-1:]
            if highest == [self.number] and and_beat:
                self._content["beat"] += 1
                self.folder.write(_name(self.number), self._encoded())
                highest = self._numbers()[-1:]  # that write may have taken long
            if highest == [self.number]:
                self._confirmed = asked
                return
            if not highest or highest[0] < self.number:
                reason = "its lock was deleted"
            else:
                owner = self._read(highest[0])
                reason = f"it was taken over by {_owner(owner or {})}"
                # If we wrote it after the new owner had cleared it away.
                with contextlib.suppress(OSError):
                    self.folder.delete(_name(self.number))
            self.lost = reason
        logger.error("%s does not belong to this process any more: %s", self.folder, reason)
        if self._on_lost:
            self._on_lost(reason)

    def _release(self) -> None:
        with self._writing:
            held = self.number and not self.lost and self._numbers()[-1:] == [self.number]
            if held and self._is_ours(self.number):
                self._content["released"] = True
                self.folder.write(_name(self.number), self._encoded())
            self.number = 0

    def _numbers(self) -> list[int]:
        found = (LOCK_NAME.fullmatch(name) for name in self.folder.names())
        return sorted(int(match[1]) for match in found if match)

    def _read(self, number: int) -> dict[str, Any] | None:
        """Return what a generation says; {} if it is not to be understood, None if gone."""
        try:
            found = json.loads(self.folder.read(_name(number)))
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def _is_ours(self, number: int) -> bool:
        return (self._read(number) or {}).get("owner") == self._content["owner"]

    def _encoded(self) -> bytes:
        return json.dumps(self._content, indent=1).encode() + b"\n"


def refuse_if_taken_over(folder: Folder, number: int) -> None:
    """Make sure, in a worker, that the run is still that of the start it belongs to.

    Args:
        folder: Of the run.
        number: Of the lock of that start; 0 if there is none.

    Raises:
        LockLostError: If there is a later one.
    """
    found = (LOCK_NAME.fullmatch(name) for name in folder.names())
    later = [name[0] for name in found if name and int(name[1]) > number]
    if number and later:
        raise LockLostError(
            f"{folder} was taken over by a later start ({later[-1]}), which goes on with it."
        )


def this_process() -> dict[str, Any]:
    """Return what tells this process from every other: host, boot, PID and its start."""
    return {
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
    }


def process_is_gone(process: dict[str, Any]) -> bool:
    """Tell whether a process is surely gone; False if that cannot be seen from here.

    Args:
        process: As `this_process` gave it there.
    """
    here = this_process()
    if not here["boot"] or any(process.get(key) != here[key] for key in ("host", "boot")):
        return False
    pid = process.get("pid")
    if type(pid) is not int or not 0 <= pid < 2**31:  # no record of ours
        return False
    return _started(pid) != process.get("started")


@functools.cache
def _boot() -> str:
    """Return an id of this boot and PID namespace; empty where there is none."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # Containers share the boot, and each counts its PIDs alone.
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return str(psutil.boot_time()) if sys.platform == "darwin" else ""


def _started(pid: int) -> str:
    """Return when a process started, in a clock that nobody sets; empty if it is gone."""
    try:
        # https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html: the name is in
        # brackets and may hold anything; state is field 3, start in ticks field 22.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except OSError:
        if os.path.exists("/proc/self/stat"):
            return ""
    try:
        process = psutil.Process(pid)
        gone = process.status() == psutil.STATUS_ZOMBIE
        return "" if gone else str(process.create_time())
    except psutil.Error:
        return ""


def _name(number: int) -> str:
    return f".lock-{number:08d}"


def _owner(content: dict[str, Any]) -> str:
    """Say who an owner is."""
    if not content:
        return "somebody whose lock cannot be read"
    keys = {"what": "something", "pid": "?", "host": "?", "since": "?"}
    what, pid, host, since = (printable(str(content.get(k, d)), 80) for k, d in keys.items())
    with contextlib.suppress(ValueError, OverflowError):
        since = f"{datetime.fromisoformat(since).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return f"{what} (PID {pid} on host {host}, since {since})"


def _heartbeat_s(content: dict[str, Any]) -> float:
    """Return the heartbeat that a lock names in seconds; 0 if it names none that can be."""
    found: Any = content.get("heartbeat_s")
    if type(found) not in (int, float) or not 0 < found < math.inf:  # as NaN is not
        return 0.0
    return float(min(found, MAX_HEARTBEAT_S))
