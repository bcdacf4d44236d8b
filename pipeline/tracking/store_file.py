"""The SQLite file of an MLflow store: its address, whose runs it has, and the places it names.

A store names the folder of its files by an absolute path. Where it was moved or copied that leads
to the old place, so whoever opens it to write lets it name the folder beside it again.
"""

import contextlib
import os
import re
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

SQLITE = "sqlite:///"
# MLflow makes an empty folder by the name with its escapes where an address begins as above.
ESCAPED = "sqlite+pysqlite:///"
STORE, ARTIFACTS = "mlflow.db", "mlflow-artifacts"
LOCKED_S = 5.0  # longest wait for another process that writes
PLACES = (  # columns with addresses of files
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)


def store_address(file: str | Path) -> str:
    """Return the address of a store, whatever characters its path has."""
    path = str(file)
    return f"{ESCAPED}{quote(path)}" if {"%", "?"} & set(path) else f"{SQLITE}{path}"


def store_file(uri: str) -> Path | None:
    """Return the file that a store is in; None if it is a server or another database."""
    found = _parts(uri)
    return None if found is None else found[0]


def escaped_address(uri: str) -> str:
    """Return an address of a user with its escapes; any but that of a file as it is.

    A folder that exists is meant as it is written, though its name has a `%` or `?`.
    """
    found = _parts(uri)
    return uri if found is None else store_address(found[0]) + found[1]


def _parts(uri: str) -> tuple[Path, str] | None:
    """Return the file in an address of SQLite, and what follows it from the question mark on."""
    prefix = next((each for each in (SQLITE, ESCAPED) if uri.startswith(each)), None)
    if prefix is None or re.fullmatch(":memory:|file:.*|", uri.removeprefix(prefix)):
        return None  # the second is an address in an address, with options of SQLite
    written = Path(uri.removeprefix(prefix))
    if prefix == SQLITE and {"%", "?"} & set(str(written.parent)) and written.parent.is_dir():
        return written, ""
    path, mark, options = uri.removeprefix(prefix).partition("?")
    return Path(unquote(path)), mark + options


def artifacts_beside(file: Path) -> str:
    """Return the address of the folder beside a store that its files are in."""
    return (file.resolve().parent / ARTIFACTS).as_uri()


def holds_run(file: Path, run_id: object) -> bool:
    """Tell whether a store has a run, by its id there; false if there is no such store."""
    if not run_id or not file.is_file():
        return False
    with contextlib.suppress(sqlite3.Error), _reading(file) as db:
        if _trigger(db) is not None:  # a view of a stranger may never end
            return False
        found = db.execute("SELECT 1 FROM runs WHERE run_uuid = ?", (run_id,)).fetchone()
        return found is not None
    return False


def trigger_of(file: Path) -> str | None:
    """Return the name of a trigger or view in a store that MLflow did not make, if it has any.

    MLflow makes one trigger, on its table of secrets, which a run does not touch.
    """
    with _reading(file) as db:
        return _trigger(db)


def _trigger(db: sqlite3.Connection) -> str | None:
    found = db.execute(
        "SELECT name FROM sqlite_master WHERE type = 'view' "
        "OR (type = 'trigger' AND tbl_name <> 'secrets') LIMIT 1"
    ).fetchone()
    return str(found[0]) if found else None


def name_places_beside(file: Path) -> None:
    """Let a store that was moved or copied name the folder beside it, and no longer the old one.

    What a row names only decides if it is changed, never where to: nobody's store can lead away.
    One with triggers stays as it is: they could change more than what is changed here.

    Raises:
        sqlite3.Error: If it cannot be read, or has to be changed and cannot.
    """
    beside = artifacts_beside(file)
    with _reading(file) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        # MLflow makes its tables in an empty file.
        if "experiments" not in tables or _trigger(db) is not None:
            return
        rows = db.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
    left = [str(place) for (place,) in rows if _was_left(str(place), file)]
    if not left:
        return
    with contextlib.closing(sqlite3.connect(file, timeout=LOCKED_S)) as db, db:
        for place in left:
            for table, column in (each for each in PLACES if each[0] in tables):
                db.execute(
                    f"UPDATE {table} SET {column} = ?1 || substr({column}, length(?2) + 1) "
                    f"WHERE {column} = ?2 OR substr({column}, 1, length(?2) + 1) = ?2 || '/'",
                    (beside, place),
                )


def _was_left(place: str, file: Path) -> bool:
    """Tell whether a folder for files is where a store was before it was moved or copied.

    The user's own place for files has another name, or exists without a store beside it.
    """
    if not (place.startswith("file:///") and place.endswith(f"/{ARTIFACTS}")):
        return False
    old, beside = Path(unquote(urlsplit(place).path)), file.resolve().parent / ARTIFACTS
    if os.path.realpath(old) == str(beside):
        return False
    return beside.exists() or not old.exists() or (old.parent / file.name).exists()


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[sqlite3.Connection]:
    # A write that was killed is rolled back by who opens the store next: that takes a right to
    # write. Neither way makes a file.
    mode = "rw" if os.access(file, os.W_OK) and os.access(file.parent, os.W_OK) else "ro"
    address = f"{file.resolve().as_uri()}?mode={mode}"
    with contextlib.closing(sqlite3.connect(address, timeout=LOCKED_S, uri=True)) as db:
        yield db


if __name__ == "__main__":  # for `make ui`
    _store = Path(sys.argv[1], STORE)
    _store.parent.mkdir(parents=True, exist_ok=True)
    if _store.exists():
        name_places_beside(_store)
    sys.stdout.write(f"{store_address(_store)}\n")
