"""A home folder and a name for a user who has none: a container may run under any number."""

import contextlib
import os
import pwd
import tempfile
from pathlib import Path

from pipeline.common.own_files import OTHERS_ENTER, own_folder

note = ""  # what was done here, for the user


def ensure_home() -> None:
    """Set HOME and USER where neither they nor the system's list of users says what they are.

    Libraries ask for both when they are imported, and end if there is no answer.
    """
    global note
    number = os.getuid()
    if not any(os.environ.get(name) for name in ("LOGNAME", "USER")):
        try:
            pwd.getpwuid(number)
        except KeyError:
            os.environ["USER"] = f"uid-{number}"
    with contextlib.suppress(RuntimeError):
        Path.home()
        return
    try:
        folder = _folder(f"ratgan-home-{number}")
    except OSError:  # nothing can be written anywhere, which is said when something must be
        folder = Path("/")
    os.environ["HOME"] = str(folder)
    note = f"user {number} has no home folder: {folder} is used. Set HOME to choose another."


def _folder(name: str) -> Path:
    folder = Path(tempfile.gettempdir()) / name
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    try:
        with own_folder(folder, closed_to=OTHERS_ENTER, remedy=""):
            return folder
    except ValueError:  # a stranger was there first
        return Path(tempfile.mkdtemp(prefix=f"{name}-"))
