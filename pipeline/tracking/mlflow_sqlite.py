"""Create MLflow's SQLite file under a temporary name first, so that it is whole or absent.

MLflow makes its tables one after the other, for seconds. A store that was cut short there can never
be opened again.
"""

import contextlib
import sqlite3
import tempfile
from pathlib import Path

from mlflow import MlflowClient

from pipeline.storage.local_disk import link

SQLITE = "sqlite:///"


def store_file(uri: str) -> Path | None:
    """Return the file that a store is in; None if it is a server or another database."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def trigger_of(file: Path) -> str | None:
    """Return the name of a trigger or view in a store that MLflow did not make, if it has any.

    MLflow makes one trigger, on its table of secrets, which a run does not touch.
    """
    with contextlib.closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as db:
        found = db.execute(
            "SELECT name FROM sqlite_master WHERE type = 'view' "
            "OR (type = 'trigger' AND tbl_name <> 'secrets') LIMIT 1"
        ).fetchone()
    return str(found[0]) if found else None


def make_store(uri: str) -> None:
    """Make the file that a store is in, unless it is there.

    Args:
        uri: Of any store; there is nothing to do for one that is not in a file.
    """
    file = store_file(uri)
    if file is None or file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".mlflow-", dir=file.parent) as folder:
        made = Path(folder) / file.name
        MlflowClient(f"{SQLITE}{made}").search_experiments(max_results=1)
        link(str(made), str(file), made.read_bytes())  # another start may have been faster
