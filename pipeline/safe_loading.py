"""Refusal to start where the environment lets a file of tensors run code."""

import os

VARIABLE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


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
