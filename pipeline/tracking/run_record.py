"""run.json: status of a run, its MLflow id, and the step whose result was exported."""

import threading
from typing import Any

from pipeline.storage.folder import Folder

RUN_RECORD = "run.json"  # in the run's folder

# Training and the sender beside it both write. Another process seldom does, and what is lost
# then comes back: the MLflow run is found by its tag, and a hand-over can be done again.
_lock = threading.Lock()


def read_record(run: Folder) -> dict[str, Any]:
    """Read the record; empty if the run is new."""
    record: dict[str, Any] = run.read_json(RUN_RECORD) if run.exists(RUN_RECORD) else {}
    return record


def update_record(run: Folder, **changes: object) -> None:
    """Change some of the record and leave the rest."""
    with _lock:
        before = read_record(run)
        if before != (after := before | changes):
            run.write_json(RUN_RECORD, after)
