"""What a dry run prints: what would be done, a line for each part, and what is wrong with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.progress import say
from pipeline.storage import Folder

WIDTH = 9  # characters of the longest label


class Report:
    """Lines of a plan, said as they come: some take a while to find out."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def line(self, label: str, text: str) -> None:
        """Say a part of the plan."""
        first, *rest = text.splitlines()
        say(f"{label:{WIDTH}} {first}")
        for each in rest:
            say(f"{'':{WIDTH}} {each}")

    def note(self, text: str) -> None:
        """Keep what a person should know, but that stops nothing, for the end."""
        self.notes.append(text)

    def end(self) -> None:
        """Say what was kept, and that nothing was done."""
        for text in self.notes:
            say(f"note: {text}")
        say("dry run: nothing was started, and nothing was kept. Without --dry-run it starts.")


@contextmanager
def leaving_nothing(folder: Folder) -> Iterator[None]:
    """Remove the folders that a probe of a place has made on the way."""
    made: list[Path] = []
    if folder.is_local:
        path = Path(folder.path)
        made = [each for each in (path, *path.parents) if not each.exists()]
    try:
        yield
    finally:
        for each in made:  # the innermost first
            if each.is_dir() and not any(each.iterdir()):
                each.rmdir()
