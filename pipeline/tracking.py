"""Runs in MLflow: options, curves, sample grids, and the model at the end."""

import json
import logging
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# Its own defaults keep a worker waiting for many minutes, and the others give it up by then.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking.context.registry import resolve_tags
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from PIL import Image

from pipeline.storage import Folder
from ratgan.text.loading import REQUIREMENTS

logger = logging.getLogger(__name__)

MAX_PARAM_LENGTH = 6000  # characters; MLflow refuses longer values
MAX_DIGEST_LENGTH = 36  # characters of a dataset's digest; the whole is in the run's tags
SERVED_MODEL = Path(__file__).with_name("served_model.py")
ROOT = Path(__file__).resolve().parent.parent


def tracking_uri(configured: str | None, output: Folder) -> str:
    """Decide where runs are recorded: the option, the environment, or a file beside the runs.

    Raises:
        ValueError: If none is named and the output folder is in a bucket.
    """
    uri = configured or os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        return uri
    if not output.is_local:
        raise ValueError(
            f"runs in {output} need an MLflow server that every node reaches: name it with "
            "MLFLOW_TRACKING_URI or --tracking.uri."
        )
    Path(output.path).mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{output.path}/mlflow.db"


def redacted(uri: str) -> str:
    """Take user and password out of an address, for screens and records."""
    parts = urlsplit(uri)
    return (
        urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if parts.netloc else uri
    )


class Tracker:
    """One MLflow run; made anew in each process from its address and id.

    Args:
        uri: Of the MLflow server or store.
        run_id: Of the run.
    """

    def __init__(self, uri: str, run_id: str) -> None:
        self.uri, self.run_id = uri, run_id
        self.client = MlflowClient(uri)

    @classmethod
    def start(
        cls,
        uri: str,
        *,
        experiment: str,
        name: str,
        resume: str | None,
        params: dict[str, object],
        tags: dict[str, str],
    ) -> "Tracker":
        """Create a run, or go on with one.

        Args:
            uri: Of the MLflow server or store.
            experiment: Created if it is not there.
            name: Of the run.
            resume: Id of the run to go on with.
            params: Resolved options by dotted name.
            tags: What else identifies the run.

        Raises:
            ConnectionError: If the tracker cannot be reached.
        """
        client = MlflowClient(uri)
        try:
            if resume and _exists(client, resume):
                client.update_run(resume, status="RUNNING")
                return cls(uri, resume)
            found = client.get_experiment_by_name(experiment)
            if found is None:
                experiment_id = client.create_experiment(
                    experiment,
                    artifact_location=_artifact_location(uri),
                    # Or the UI shows what it has for language models.
                    tags={"mlflow.experimentKind": "custom_model_development"},
                )
            else:
                experiment_id = found.experiment_id
            # The tags that MLflow gives its own runs: who started which file.
            run = client.create_run(experiment_id, run_name=name, tags=resolve_tags())
        except MlflowException as error:
            raise ConnectionError(
                f"MLflow at {redacted(uri)} does not take the run: {error.message}"
            ) from error
        tracker = cls(uri, run.info.run_id)
        client.log_batch(
            tracker.run_id,
            params=[Param(k, str(v)[:MAX_PARAM_LENGTH]) for k, v in sorted(params.items())],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        return tracker

    def last_step(self, key: str) -> int:
        """Return the last step of a curve; 0 if it has no point, or MLflow does not say."""
        steps = [0]
        with _going_on("the question how far its curves go"):
            steps += [point.step for point in self.client.get_metric_history(self.run_id, key)]
        return max(steps)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Log points of curves."""
        now = int(time.time() * 1000)
        points = [Metric(k, float(v), now, step) for k, v in values.items()]
        with _going_on(f"the curves of step {step}"):
            self.client.log_batch(self.run_id, metrics=points)

    def tag(self, key: str, value: str) -> None:
        """Mark the run."""
        with _going_on(f"the tag {key}"):
            self.client.set_tag(self.run_id, key, value)

    def image(self, key: str, step: int, image: Image.Image) -> None:
        """Log a picture that the UI shows with a slider over steps."""
        with _going_on(f"the {key} of step {step}"):
            self.client.log_image(self.run_id, np.asarray(image), key=key, step=step)

    def dataset(self, name: str, digest: str, location: str, images: int) -> None:
        """Log what the run trains on.

        Args:
            name: Of its source.
            digest: Of its manifest, sha256 in hex.
            location: Folder or bucket address.
            images: Number for training.
        """
        dataset = Dataset(
            name=name,
            digest=digest[:MAX_DIGEST_LENGTH],
            source_type="local" if "://" not in location else location.partition("://")[0],
            source=json.dumps({"uri": location}),
            profile=json.dumps({"num_rows": images}),
        )
        tags = [InputTag("mlflow.data.context", "training")]
        self.client.log_inputs(self.run_id, [DatasetInput(dataset, tags)])

    def json(self, value: dict[str, Any], file: str) -> None:
        """Log a record as a JSON artifact."""
        self.client.log_dict(self.run_id, value, file)

    def file(self, content: bytes, file: str) -> None:
        """Log a file as an artifact."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / file
            path.write_bytes(content)
            self.client.log_artifact(self.run_id, str(path))

    def model(self, files: dict[str, bytes], example: list[str], text_encoder: str) -> None:
        """Log the trained model: captions in, images out, loadable with ``mlflow.pyfunc``.

        Args:
            files: Content of a saved model by file name.
            example: Captions.
            text_encoder: Name; decides what must be installed to load the model.
        """
        with tempfile.TemporaryDirectory() as folder, fluent_api(self.uri):
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            with mlflow.start_run(run_id=self.run_id):
                mlflow.pyfunc.log_model(
                    name="model",
                    python_model=str(SERVED_MODEL),
                    artifacts={"model": folder},
                    code_paths=[str(ROOT / "ratgan")],
                    signature=ModelSignature(
                        inputs=Schema([ColSpec(DataType.string, "caption")]),
                        outputs=Schema([TensorSpec(np.dtype("uint8"), (-1, -1, -1, 3))]),
                    ),
                    input_example={"caption": example},
                    pip_requirements=[
                        "torch",
                        "torchvision",
                        "safetensors",
                        "pillow",
                        *REQUIREMENTS[text_encoder],
                    ],
                )

    def finish(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED."""
        with _going_on(f"the end of the run, {status}"):
            self.client.set_terminated(self.run_id, status)


@contextmanager
def _going_on(what: str) -> Iterator[None]:
    """Let a tracker that does not answer stop nothing, nor hide the error that ended a run."""
    try:
        yield
    except (MlflowException, OSError) as error:
        logger.warning("MLflow did not take %s: %s", what, error)


def _artifact_location(uri: str) -> str | None:
    """Put artifacts beside a sqlite file; a server decides itself."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).resolve().parent / "mlflow-artifacts").as_uri()


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


def _exists(client: MlflowClient, run_id: str) -> bool:
    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def git_state() -> dict[str, str]:
    """Return commit and cleanness of the checkout the code runs from.

    A submitted job runs in a copy without one: there the commit is what `GIT_COMMIT` says.
    Empty if neither is known.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {
            "git.commit": git("rev-parse", "HEAD"),
            "git.dirty": str(bool(git("status", "--porcelain"))).lower(),
        }
    except (OSError, subprocess.SubprocessError):
        commit = os.environ.get("GIT_COMMIT")
        return {"git.commit": commit} if commit else {}
