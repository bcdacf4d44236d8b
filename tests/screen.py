"""What a test reads off the screen: what its own process said there, and nothing else."""

import re

OF_OTHERS = re.compile(r"(\x1b\[[\d;]*m)*\([^)]*(pid=|raylet|autoscaler|gcs_server)")


def own(said: str) -> str:
    """Leave out the lines of other processes, which Ray repeats here as late as it pleases.

    A worker of the test before this one may be among them.

    Args:
        said: As captured.
    """
    lines = said.splitlines(keepends=True)
    return "".join(line for line in lines if not OF_OTHERS.match(line))
