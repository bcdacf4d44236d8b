"""Sort what MLflow, its database and its files answer: it passes, it needs a person, it is final.

A tracker that is away comes back by itself, and one that refuses does not: whoever reads the
message learns which of the two it is, and what to do.
"""

import importlib.util
import re
from pathlib import Path

from pipeline.common.redaction import redacted

# What MLflow will never take: codes of its own, and statuses of what stands before it.
NEVER = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST"}
NEVER_STATUS = {400, 413, 415, 422}
PASSING_STATUS = {408, 409, 421, 423, 425, 429, 499}  # all others below 500 stay
STATUS_OF = {  # of MLflow's codes
    "UNAUTHENTICATED": 401,
    "CUSTOMER_UNAUTHORIZED": 401,
    "PERMISSION_DENIED": 403,
    "ENDPOINT_NOT_FOUND": 404,
}
BY_STATUS = {
    401: "it does not take this user: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
    "or MLFLOW_TRACKING_TOKEN",
    403: "this user may not do it: ask for the right to write to the experiment",
    404: "no MLflow is at this address, or one too old: check the address and its path",
    407: "a proxy before it does not take this user: check HTTPS_PROXY and HTTP_PROXY",
}
NEW_STORE = "restore it from a copy, or name another store"
BY_TEXT = {
    "attempt to write a readonly database": "its database can only be read: allow to write to the "
    "file and to its folder",
    "disk I/O error": "its database cannot be read: see to its disk",
    "unable to open database file": "its database cannot be opened: see whether its folder is "
    "there, and who may read and write it",
    "file is not a database": f"its file is no SQLite database: {NEW_STORE}",
    "database disk image is malformed": f"its database is damaged: {NEW_STORE}",
    "database or disk is full": "the disk of its database is full: make room there",
    "No space left on device": "the disk of its files is full: make room there",
    "Disk quota exceeded": "the quota for its files is used up: make room there",
    "Read-only file system": "its files are on a disk that can only be read",
    "Permission denied": "its files may not be written: allow it for their folder",
    "(AccessDenied)": "its bucket does not let this user write: allow s3:PutObject",
    "(InvalidAccessKeyId)": "its bucket does not know this user: set AWS_ACCESS_KEY_ID",
    "(NoSuchBucket)": "the bucket of its files does not exist: create it",
    "Unable to locate credentials": "its bucket asks for a user: set AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY",
}
_STATUS = re.compile(r"failed with error code (\d{3})\b")
_SCHEMA = re.compile(r"out-of-date database schema \(found version (\w+)")


class UnavailableError(ConnectionError):
    """MLflow cannot take something now."""


class NotYetError(UnavailableError):
    """MLflow answers, and takes something as soon as a process of ours has done its part."""


class BlockedError(UnavailableError):
    """MLflow answers, and takes nothing of a run before a person changes something."""


class GoneError(LookupError):
    """The run is not there any more."""


def sorted_error(error: Exception, refusal: type[Exception]) -> Exception:
    """Return the error that says what kind of failure this is, and what to do.

    Args:
        error: Of MLflow, its client, a database, a bucket or the network.
        refusal: For what will never be taken.
    """
    text = redacted(str(getattr(error, "message", error)))
    code, status = getattr(error, "error_code", None), _status(error, text)
    brief = text.partition("\n")[0][:300]
    if status is not None and 400 <= status < 500 and status not in PASSING_STATUS | NEVER_STATUS:
        return BlockedError(
            f"{BY_STATUS.get(status, 'it refuses this')} (status {status}: {brief})"
        )
    if found := _SCHEMA.search(text):
        return BlockedError(_other_schema(found[1]))
    for sign, advice in BY_TEXT.items():
        if sign in text:
            return BlockedError(f"{advice} ({brief if sign in brief else sign})")
    if refusal is BlockedError and "must be in the 'active' state" in text:
        return NotYetError(text)  # deleted in this moment: the next look finds it so
    if code in NEVER or status in NEVER_STATUS or isinstance(error, TypeError | ValueError):
        return refusal(text)
    return UnavailableError(text if code else f"{type(error).__name__}: {text}")


def _status(error: Exception, text: str) -> int | None:
    """Return the HTTP status of an answer, as far as it can be told."""
    answered = getattr(getattr(error, "response", None), "status_code", None)
    if answered is None and (found := _STATUS.search(text)):
        answered = int(found[1])
    return answered or STATUS_OF.get(str(getattr(error, "error_code", None)))


def _other_schema(revision: str) -> str:
    """Say of a database with another schema whether it is older or newer than this MLflow."""
    mlflow = importlib.util.find_spec("mlflow")
    versions = (
        Path((mlflow and mlflow.origin) or "").parent / "store" / "db_migrations" / "versions"
    )
    if any(versions.glob(f"{revision}_*.py")):
        return (
            "its database is of an older MLflow: keep a copy of it, and run `mlflow db upgrade` "
            f"with its address (schema {revision})"
        )
    return f"its database is of a newer MLflow: install that version here (schema {revision})"
