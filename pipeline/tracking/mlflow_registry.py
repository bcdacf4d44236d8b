"""Fetch a registered model's files from MLflow by its alias; no code that lies there is run."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow import MlflowClient

from pipeline.common.redaction import redacted
from pipeline.storage.folder import Folder
from pipeline.tracking.mlflow_access import fluent_api, open_store, waiting_at_most
from pipeline.tracking.refusals import sorted_error
from pipeline.tracking.store_file import store_file
from pipeline.tracking.tracker import tracking_uri
from ratgan.weights.saved_model import MODEL_JSON

ADDRESS = re.compile(r"models:/([^/@]+)(?:@([\w.-]+)|/(\d+))")
TIMEOUT_S = 60


def find_version(address: str, uri: str | None) -> str:
    """Return the number of the version that an address names now.

    Args:
        address: As in models:/NAME@best or models:/NAME/3.
        uri: Of the MLflow server or store; by default that of the environment or of `outputs`.

    Raises:
        ValueError: If the address has another form, or MLflow knows no such model.
        OSError: If MLflow does not answer.
    """
    name, alias, number = _parts(address)
    if number:
        return number
    with _answers(address, uri) as place:
        return str(MlflowClient(place).get_model_version_by_alias(name, alias).version)


@contextmanager
def fetched(address: str, version: str, uri: str | None) -> Iterator[Path]:
    """Give a folder with the files of a version while the block runs.

    Args:
        address: As in `find_version`.
        version: Its number.
        uri: As in `find_version`.

    Raises:
        ValueError: If it is no model of this program.
        OSError: If MLflow does not answer.
    """
    source = f"models:/{_parts(address)[0]}/{version}"
    with tempfile.TemporaryDirectory() as folder:
        with _answers(address, uri) as place:
            open_store(place)
            with fluent_api(place):
                mlflow.artifacts.download_artifacts(source, dst_path=folder)
        found = [path.parent for path in Path(folder).glob(f"artifacts/*/{MODEL_JSON}")]
        if len(found) != 1:
            raise ValueError(
                f"{source} holds no {MODEL_JSON}: no training of this program made it."
            )
        yield found[0]


def _parts(address: str) -> tuple[str, str, str]:
    """Return name, alias and number; one of the last two is empty."""
    found = ADDRESS.fullmatch(address)
    if found is None:
        raise ValueError(f"{address} must be like models:/NAME@best or models:/NAME/3.")
    return found[1], found[2] or "", found[3] or ""


@contextmanager
def _answers(address: str, uri: str | None) -> Iterator[str]:
    """Give the address of the store, and tell apart who does not answer and who refuses."""
    place = tracking_uri(uri, Folder("outputs"), create=False)
    file = store_file(place)
    if file is not None and not file.exists():  # MLflow would make it
        raise FileNotFoundError(f"{file} does not exist: name the store with --tracking-uri.")
    try:
        with waiting_at_most(TIMEOUT_S):
            yield place
    except Exception as error:  # of the store, the bucket, the network: each has its own kind
        reason = sorted_error(error, ValueError)
        raise type(reason)(f"{address} in {redacted(place)}: {reason}") from error
