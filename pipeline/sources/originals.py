"""Reading a file that a listing of originals names: never one outside of their folder."""

from functools import lru_cache

from pipeline.images import RejectedError
from pipeline.storage import Folder, inside


def read_original(root: str, name: str, start: int | None = None, end: int | None = None) -> bytes:
    """Read a file of the originals, or some bytes of it.

    Args:
        root: Folder or bucket address of the originals.
        name: As the listing has it, below `root`; foreign data.
        start: First byte.
        end: Byte to stop before.

    Raises:
        OSError: If it cannot be read.
        RejectedError: If it would lead outside of `root`, or to another place altogether.
    """
    folder = _folder(root)
    try:
        inside(folder, name)
    except ValueError as problem:
        raise RejectedError("PATH_UNSAFE", str(problem)) from problem
    return folder.read(name, start, end)


@lru_cache(maxsize=8)
def _folder(root: str) -> Folder:
    return Folder(root)
