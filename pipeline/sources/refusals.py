"""What is wrong with a row already when it is listed, carried to where rows are rejected.

Listing counts nothing and stops for nothing that concerns one row. It notes a refusal among the
texts of the record; whoever reads the captions raises it.
"""

from pipeline.images import RejectedError
from pipeline.sources.source import Record

MARK = "/refused/"  # no file that a listing names starts with a slash


def refusal(reason: str, detail: str) -> str:
    """Make the entry that goes among a record's texts.

    Args:
        reason: As in `RejectedError`.
        detail: As in `RejectedError`.
    """
    return f"{MARK}{reason}/{detail}"


def raise_refusals(record: Record) -> None:
    """Raise what was noted for a record.

    Raises:
        RejectedError: If anything was.
    """
    for text in record.texts:
        if text.startswith(MARK):
            reason, _, detail = text.removeprefix(MARK).partition("/")
            raise RejectedError(reason, detail)
