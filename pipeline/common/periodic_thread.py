"""A thread that looks at something every few seconds, for as long as a `with` block lasts."""

import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class PeriodicThread(ABC):
    """Calls `look` again and again, in a thread of its own.

    Args:
        name: Of the thread.
        every_s: Seconds before each call.
        active: Whether there is anything to look at; if not, no thread is started.
        join_s: Seconds to wait for a call in progress when the block ends.

    Attributes:
        over: Set when the block ends.
    """

    def __init__(
        self, name: str, every_s: float, *, active: bool = True, join_s: float = 10.0
    ) -> None:
        self.every_s, self.join_s = every_s, join_s
        self.over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._active = active

    @abstractmethod
    def look(self) -> bool:
        """Look once; return whether to look again."""

    def __enter__(self) -> Self:
        if self._active:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.over.set()
        if self._active:
            self._thread.join(self.join_s)

    def _run(self) -> None:
        while not self.over.wait(self.every_s) and self.look():
            pass
