"""What is in a folder, to compare before and after."""

from pathlib import Path


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder and its content, without those below links."""
    return {
        str(each.relative_to(folder)): each.read_bytes()
        for each in sorted(folder.rglob("*"))
        if each.is_file() and not each.is_symlink()
    }
