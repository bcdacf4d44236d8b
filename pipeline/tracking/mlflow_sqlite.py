"""Create MLflow's SQLite file under a temporary name first, so that it is whole or absent.

MLflow makes its tables one after the other, for seconds. A store that was cut short there can never
be opened again.
"""

import tempfile
from pathlib import Path

from mlflow import MlflowClient

from pipeline.storage.local_disk import link
from pipeline.tracking.store_file import store_address, store_file


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
        MlflowClient(store_address(made)).search_experiments(max_results=1)
        link(str(made), str(file), made.read_bytes())  # another start may have been faster
