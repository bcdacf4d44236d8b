"""Log and register a trained model in MLflow, and set the alias of the best version.

Each step can be done again and then changes nothing, so one that was cut short is just repeated.
"""

import json
import tempfile
import uuid
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

from pipeline.tracking.best_version import Quality, choose, qualities
from pipeline.tracking.spool import Record
from ratgan.text.loading import REQUIREMENTS

MODEL_TAG = "ratgan.model"  # holds the sha256 of the model's files, so that it is there once
STEP_TAG = "step"  # of a version
BEST = "best"  # alias, and the registered model's tag that says why
SERVED_MODEL = Path(__file__).with_name("mlflow_pyfunc.py")
ROOT = Path(__file__).resolve().parents[2]


def log_model(client: MlflowClient, run: Run, record: Record, content: dict[str, bytes]) -> None:
    """Log a run's model: captions in, images out, loadable with ``mlflow.pyfunc``; register it.

    MLflow's global functions must point at the same store.

    Args:
        client: Of the store.
        run: The run there.
        record: As `Tracker.model` tells it.
        content: Of the model's files by name.
    """
    identity = json.dumps(record["files"], sort_keys=True)
    tag = uuid.uuid5(uuid.NAMESPACE_OID, f"{run.info.run_id} {identity}").hex
    logged = _logged(client, run, tag) or _log(client, run, record, content, tag)
    if record.get("name"):
        _register(client, run, record, logged, tag)
        choose_best(client, record["name"])


def mark_quality(client: MlflowClient, run_id: str, quality: Quality) -> None:
    """Tag a run with a measure of its model, and choose anew among the versions it is one of.

    Args:
        client: Of the store.
        run_id: Of the run.
        quality: Counts for versions of the step that was measured.
    """
    key, value = quality.tag()
    client.set_tag(run_id, key, value)
    client.set_tag(run_id, "protocol", quality.protocol)
    for version in client.search_model_versions(f"run_id='{run_id}'"):
        if version.tags.get(STEP_TAG) == str(quality.step):
            client.set_model_version_tag(version.name, version.version, key, value)
            choose_best(client, version.name)


def choose_best(client: MlflowClient, name: str) -> None:
    """Let the alias `best` of a registered model name its best version, and a tag say why."""
    versions: list[ModelVersion] = []
    page: str | None = None
    while page is None or page:
        found = client.search_model_versions(f"name='{name}'", page_token=page)
        versions += found
        page = found.token or ""
    best, why = choose({int(each.version): qualities(each.tags) for each in versions})
    registered = client.get_registered_model(name)
    if registered.aliases.get(BEST) != str(best):
        client.set_registered_model_alias(name, BEST, str(best))
    if registered.tags.get(BEST) != why:
        client.set_registered_model_tag(name, BEST, why)


def _logged(client: MlflowClient, run: Run, tag: str) -> LoggedModel | None:
    """Find the model if it is logged already."""
    ours = f"source_run_id = '{run.info.run_id}'"
    for logged in client.search_logged_models([run.info.experiment_id], ours):
        if logged.tags.get(MODEL_TAG) != tag:
            continue
        if logged.status == "READY":
            return logged
        client.delete_logged_model(logged.model_id)  # an upload that was cut short
    return None


def _log(
    client: MlflowClient, run: Run, record: Record, content: dict[str, bytes], tag: str
) -> LoggedModel:
    with tempfile.TemporaryDirectory() as folder:
        for name, each in content.items():
            (Path(folder) / name).write_bytes(each)
        created = client.create_logged_model(
            run.info.experiment_id,
            name="model",
            source_run_id=run.info.run_id,
            tags={MODEL_TAG: tag},
            params=run.data.params,
        )
        # What mlflow.pyfunc.log_model calls, which cannot be told the run: it starts one.
        Model.log(
            artifact_path=None,
            model_id=created.model_id,
            run_id=run.info.run_id,
            flavor=mlflow.pyfunc,
            python_model=str(SERVED_MODEL),
            artifacts={"model": folder},
            model_config={"encoder_path": ""},
            code_paths=[str(ROOT / "ratgan")],
            signature=_signature(),
            input_example=({"caption": record["example"]}, {"seed": 0}),
            pip_requirements=[
                "torch",
                "torchvision",
                "safetensors",
                "pillow",
                *REQUIREMENTS[record["text_encoder"]],
            ],
        )
    return created


def _signature() -> ModelSignature:
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "caption")]),
        outputs=Schema([TensorSpec(np.dtype("uint8"), (-1, -1, -1, 3))]),
        params=ParamSchema([ParamSpec("seed", DataType.long, 0)]),
    )


def _register(
    client: MlflowClient, run: Run, record: Record, logged: LoggedModel, tag: str
) -> None:
    """Make a version of a registered model, unless there is one of these files."""
    name, step = record["name"], str(record["step"])
    try:
        client.create_registered_model(name, description=record["description"])
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for version in client.search_model_versions(f"run_id='{run.info.run_id}'"):
        if version.name == name and version.tags.get(MODEL_TAG) == tag:
            return
    known = [each for each in qualities(run.data.tags) if str(each.step) == step]
    tags: dict[str, Any] = {MODEL_TAG: tag, STEP_TAG: step, **dict(each.tag() for each in known)}
    client.create_model_version(
        name,
        f"models:/{logged.model_id}",
        run_id=run.info.run_id,
        tags=tags,
        description=f"Run {run.info.run_name}, step {record['step']:,}.",
        model_id=logged.model_id,
    )
