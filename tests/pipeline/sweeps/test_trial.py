"""The process of a trial."""

import sys

from pipeline.sweeps.trial import leave_quietly


class Ends:
    """Raises an error where Python can only show it."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __del__(self) -> None:
        raise self.error


def test_its_end_is_no_traceback_and_an_error_is_one(monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda it: shown.append(it.exc_type))
    leave_quietly()

    for error in (SystemExit(1), ValueError("damaged")):
        Ends(error)

    assert shown == [ValueError]
