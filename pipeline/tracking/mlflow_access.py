"""Reach MLflow: a store in a file is made or opened, a server is waited for, errors are sorted."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.environment_variables import (
    MLFLOW_HTTP_REQUEST_MAX_RETRIES,
    MLFLOW_HTTP_REQUEST_TIMEOUT,
)
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache
from mlflow.tracking.context.registry import resolve_tags

from pipeline.common.redaction import redacted
from pipeline.tracking.mlflow_sqlite import make_store
from pipeline.tracking.refusals import BlockedError, GoneError, UnavailableError, sorted_error
from pipeline.tracking.store_file import escaped_address, name_places_beside, store_file, trigger_of
from pipeline.tracking.untrusted_records import RefusedError

ASK_TIMEOUT_S = 5  # before any work, when nothing waits for it


def context_tags() -> dict[str, str]:
    """Return the tags that MLflow gives its own runs: who started which file."""
    tags: dict[str, str] = resolve_tags()
    return tags


@contextmanager
def waiting_at_most(timeout_s: int, *, retries: int = 0) -> Iterator[None]:
    """Let MLflow wait so long for an answer, instead of minutes; who sets more has more.

    Args:
        timeout_s: Seconds for a request.
        retries: Of MLflow's own; ours go on for longer and are spread.
    """
    timeout, tries = MLFLOW_HTTP_REQUEST_TIMEOUT, MLFLOW_HTTP_REQUEST_MAX_RETRIES
    standard = {each.name: str(each.default) for each in (timeout, tries)}
    # None is taken out at the end: another thread may be going through the environment.
    before = {name: os.environ.get(name, usual) for name, usual in standard.items()}
    given = {name: value for name, value in before.items() if value != standard[name]}
    wanted = max(timeout_s, int(given.get(timeout.name, 0)))
    os.environ |= {timeout.name: str(wanted), tries.name: given.get(tries.name, str(retries))}
    try:
        yield
    finally:
        os.environ |= before


def open_store(uri: str) -> None:
    """Make a store in a file that is not there; let one that was moved name the places beside it.

    Raises:
        sqlite3.Error: If its file cannot be read, or has to be changed and cannot.
    """
    # MLflow keeps by a run's id where its files go, and a copy of the run has the same id.
    _artifact_repos_cache.clear()
    make_store(uri)
    file = store_file(uri)
    if file is not None:
        name_places_beside(file)


def is_trusted(uri: str) -> bool:
    """Tell whether the environment names a store: it is the user's, and did not come with a run."""
    return uri == escaped_address(os.environ.get("MLFLOW_TRACKING_URI", ""))


def state_of(uri: str, experiment: str) -> str:
    """Say in words that a tracker answers, and change nothing there.

    Args:
        uri: Of the MLflow server or store.
        experiment: That is asked for.

    Raises:
        UnavailableError: If it does not answer, or refuses.
    """
    file = store_file(uri)
    if file is not None and not file.exists():
        return "is made with the first run"  # to look would be to make it
    with waiting_at_most(ASK_TIMEOUT_S), sorted_answers(refusal=BlockedError):
        if file is not None:
            trigger_of(file)  # MLflow asks for minutes again whether it is a database
        found = find_experiment(MlflowClient(uri), experiment)
    return f"answers; experiment {experiment} is {'there' if found else 'new'}"


@contextmanager
def fluent_api(uri: str) -> Iterator[None]:
    """Point the global functions of MLflow at a store, and back: it sets the environment too."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


@contextmanager
def sorted_answers(refusal: type[Exception] = RefusedError) -> Iterator[None]:
    """Tell apart what may pass later and what never will.

    Args:
        refusal: What to raise for the second.
    """
    try:
        yield
    except (RefusedError, GoneError, UnavailableError):
        raise
    except json.JSONDecodeError as error:  # a page of whatever stands before MLflow
        raise UnavailableError(f"it does not answer in JSON: {error}") from error
    except Exception as error:  # of the store, the bucket, the network: each has its own kind
        raise sorted_error(error, refusal) from error


def find_experiment(client: MlflowClient, name: str) -> Experiment | None:
    """Find an experiment by its name.

    Raises:
        BlockedError: If it was deleted: MLflow keeps its name, and takes no run for it.
    """
    found = client.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage == "deleted":
        number = found.experiment_id
        raise BlockedError(
            f"experiment {name} was deleted there. Restore it with `mlflow experiments restore "
            f"--experiment-id {number}`, or delete it for good with `mlflow gc --experiment-ids "
            f"{number}`, both with MLFLOW_TRACKING_URI={redacted(client.tracking_uri)}: then it is "
            "made anew, with all of this run. A new run can have another, with "
            "--tracking.experiment"
        )
    return found
