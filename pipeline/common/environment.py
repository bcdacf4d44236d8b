"""Record and compare versions and commit of a process; refuse unsafe torch settings."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
COMPARED = ("python", "torch", "numpy", "ray", "ratgan")


def versions() -> dict[str, str]:
    """Return the versions of this process."""
    import torch  # takes seconds, and a command that shows its options needs none

    found: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("ratgan", "ray", "torchvision", "mlflow", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # runs from a folder that was not installed
            found[name] = "not installed"
    return found


def differences(before: dict[str, str]) -> str:
    """Name what this process has in another version; empty if all is the same."""
    now = versions()
    return ", ".join(
        f"{name} {before[name]} → {now[name]}"
        for name in COMPARED
        if name in before and before[name] != now[name]
    )


def refuse_skew(driver: dict[str, str]) -> None:
    """Refuse to work for a driver that has other versions: each is another program.

    Raises:
        ValueError: With each difference.
    """
    if found := differences(driver):
        raise ValueError(
            f"a worker has other versions than the process that started the job ({found}). Install "
            "the same ones (requirements.lock) on all machines."
        )


def git_state() -> dict[str, str]:
    """Return commit and cleanness of the checkout the code runs from.

    A submitted job runs in a copy without one: there the commit is what `GIT_COMMIT` says.
    Empty if neither is known.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {
            "git.commit": git("rev-parse", "HEAD"),
            "git.dirty": str(bool(git("status", "--porcelain"))).lower(),
        }
    except (OSError, subprocess.SubprocessError):
        commit = os.environ.get("GIT_COMMIT")
        return {"git.commit": commit} if commit else {}


def refuse_unsafe_loading() -> None:
    """Refuse an environment in which torch unpickles whatever it is given.

    Nothing here reads a pickle without torch's restricted reader, but a library that leaves the
    choice to torch would.

    Raises:
        ValueError: If the variable is set to anything but 0.
    """
    value = os.environ.get(VARIABLE, "0")
    if value not in ("", "0"):
        raise ValueError(
            f"{VARIABLE}={value} makes torch.load run the code in any file it reads. Start "
            f"without it: unset {VARIABLE}"
        )
