"""Versions of what decides the numbers: for the record, and compared where processes meet."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

COMPARED = ("python", "torch", "numpy", "ray", "ratgan")


def versions() -> dict[str, str]:
    """Return the versions of this process."""
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
