"""Create or find a run in MLflow, and write records to it.

Whatever can go wrong is one of four things: MLflow cannot take it now (`UnavailableError`), takes
nothing before a person changes something (`BlockedError`), will never take it (`RefusedError`), or
the run was deleted there (`GoneError`).
"""

import hashlib
import io
import json
import logging
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from PIL import Image

from pipeline.common.commands import job_command
from pipeline.storage.folder import Folder
from pipeline.tracking.best_version import Quality, qualities
from pipeline.tracking.mlflow_access import (
    find_experiment,
    fluent_api,
    is_trusted,
    open_store,
    sorted_answers,
)
from pipeline.tracking.mlflow_model import log_model, mark_quality
from pipeline.tracking.refusals import BlockedError, GoneError, NotYetError
from pipeline.tracking.run_description import with_qualities
from pipeline.tracking.sample_grid import cut, names_of, read_layout
from pipeline.tracking.spool import Record
from pipeline.tracking.store_file import artifacts_beside, store_address, store_file, trigger_of
from pipeline.tracking.untrusted_records import (
    RefusedError,
    checked_sha256,
    lies_in,
    open_png,
    plain_name,
    read_file,
)

logger = logging.getLogger(__name__)

OUR_TAG = "ratgan.run"  # holds the id that a run has with us from its start
PARENT_TAG = "mlflow.parentRunId"  # by it the UI shows a run under another
NOTE = "mlflow.note.content"  # what the UI shows as the run's description
OUR_NOTE = "ratgan.note"  # holds the digest of the note we wrote: any other is a person's
MAX_PARAM_LENGTH = 6000  # characters; MLflow refuses longer values
MAX_DIGEST_LENGTH = 36  # characters of a dataset's digest; the whole is in the run's tags
MAX_AT_ONCE = 100  # params or tags in a request
MAX_CAPTIONS = 8  # of a grid that have pictures of their own; each is two files
COMPRESSED_SIZE = 256  # pixels; what the UI shows first of a picture
UPLOAD_TIMEOUT_S = 60  # a file takes a server longer than a point of a curve
COLUMNS = [  # of a prepared dataset, as the UI shows them
    {"name": "image", "type": "binary"},
    {"name": "captions", "type": "string"},
    {"name": "sentences", "type": "float"},
    {"name": "label", "type": "string"},
]


class Point(NamedTuple):
    """A value of a curve; `time` is in milliseconds since 1970."""

    key: str
    value: float
    time: int
    step: int


class MlflowRun:
    """A run at an address.

    Args:
        uri: Of the MLflow server or store.
        run_id: Of the run there.
    """

    def __init__(self, uri: str, run_id: str) -> None:
        self.uri, self.run_id = uri, run_id
        self.client = MlflowClient(uri)

    @classmethod
    def find_or_create(cls, uri: str, start: dict[str, Any], known: str | None) -> "MlflowRun":
        """Find a run by its id or by our tag, else create it.

        Args:
            uri: Of the MLflow server or store.
            start: What `Tracker.begin` wrote.
            known: Its id there, if there ever was one.

        Raises:
            UnavailableError: If MLflow does not answer, or does not take the run.
        """
        with sorted_answers(refusal=BlockedError):
            open_store(uri)
            file, client = store_file(uri), MlflowClient(uri)
            if known and _stage(client, known) == "active":
                client.set_tag(known, OUR_TAG, start["id"])
                return cls(uri, known)
            found = find_experiment(client, start["experiment"])
            if found is None:
                experiment = client.create_experiment(
                    start["experiment"],
                    # Beside the file; a server decides itself.
                    artifact_location=None if file is None else artifacts_beside(file),
                    # Or the UI shows what it has for language models.
                    tags={"mlflow.experimentKind": "custom_model_development"},
                )
            else:
                experiment = found.experiment_id
            runs = client.search_runs([experiment], f"tags.`{OUR_TAG}` = '{start['id']}'")
            if runs:
                return cls(uri, runs[0].info.run_id)
            tags = start["tags"] | {OUR_TAG: start["id"]}
            if parent := start.get("parent"):
                above = client.search_runs([experiment], f"tags.`{OUR_TAG}` = '{parent}'")
                if not above:  # it is sent by a process of its own
                    raise NotYetError("the run that this one is part of is not there yet")
                tags[PARENT_TAG] = above[0].info.run_id
            if known and _stage(client, known) == "deleted":
                logger.warning(
                    "run %s (%s) was deleted in MLflow: it is made anew there, with its whole "
                    "history. The old one comes back with `mlflow runs restore --run-id %s`.",
                    start["name"],
                    known,
                    known,
                )
            run = client.create_run(
                experiment, start_time=start["time"], run_name=start["name"], tags=tags
            )
            return cls(uri, run.info.run_id)

    def last_steps(self) -> dict[str, int]:
        """Return the last step of each curve the run has.

        Raises:
            UnavailableError: If MLflow does not answer.
        """
        with sorted_answers(refusal=BlockedError):
            return {
                key: max(p.step for p in self.client.get_metric_history(self.run_id, key))
                for key in self.client.get_run(self.run_id).data.metrics
            }

    def check(self) -> None:
        """Make sure that the run is there.

        Raises:
            GoneError: If it was deleted.
            UnavailableError: If MLflow does not answer.
        """
        with sorted_answers(refusal=BlockedError):
            active = _stage(self.client, self.run_id) == "active"
        if not active:
            raise GoneError(self.run_id)

    def points(self, points: Sequence[Point]) -> None:
        """Log points of curves; those that are there already stay as they are.

        Raises:
            RefusedError: If one of them has a name that MLflow does not take.
            UnavailableError: If MLflow does not answer.
        """
        metrics = [Metric(p.key, p.value, p.time, p.step) for p in points]
        with sorted_answers():
            self.client.log_batch(self.run_id, metrics=metrics)

    def record(self, record: Record, run: Folder) -> None:
        """Log any record but points; doing it again changes nothing.

        Args:
            record: As `Tracker` tells it.
            run: Folder of the run, where the files are that it names.

        Raises:
            RefusedError: If MLflow does not take it, or its file is not as it was.
            UnavailableError: If MLflow does not answer.
        """
        kind = record["kind"]
        if kind in ("image", "file", "model"):
            self.check()  # a server that hangs is found out before a long upload to it
        if kind in ("json", "image", "file", "model"):
            self._refuse_other_place(run)
        with sorted_answers():
            match kind:
                case "options":
                    self._options(record)
                case "dataset":
                    self._dataset(record)
                case "status" if record["status"] == "RUNNING":
                    self.client.update_run(self.run_id, status="RUNNING")
                case "status":
                    self.client.set_terminated(self.run_id, record["status"], record["time"])
                case "json":
                    self.client.log_dict(
                        self.run_id, record["value"], plain_name(run, record["file"])
                    )
                case "image":
                    # The one kind without a hash: it may be drawn anew, under the same name.
                    self._image(record, run)
                case "file":
                    self._file(record, run)
                case "note":
                    self._note(record)
                case "quality":
                    self._quality(record)
                case "model":
                    self._model(record, run / "model")
                case _:
                    raise RefusedError(f"kind={kind!r} is not known to this version")

    def _options(self, record: Record) -> None:
        params = [Param(k, v[:MAX_PARAM_LENGTH]) for k, v in record["params"].items()]
        tags = [RunTag(key, value) for key, value in record["tags"].items()]
        refused: list[str] = []
        for some in (params, tags):
            for first in range(0, len(some), MAX_AT_ONCE):
                self._log(some[first : first + MAX_AT_ONCE], refused)
        if refused:
            raise RefusedError("; ".join(refused))

    def _log(self, some: Sequence[Param | RunTag], refused: list[str]) -> None:
        """Log params or tags; one that is refused does not take the others with it."""
        params = [each for each in some if isinstance(each, Param)]
        tags = [each for each in some if isinstance(each, RunTag)]
        try:
            with sorted_answers():
                self.client.log_batch(self.run_id, params=params, tags=tags)
        except RefusedError as reason:
            self.check()  # a run that was deleted refuses everything
            if len(some) == 1:
                refused.append(f"{some[0].key}: {reason}")
                return
            half = len(some) // 2
            self._log(some[:half], refused)
            self._log(some[half:], refused)

    def _dataset(self, record: Record) -> None:
        location = record["location"]
        dataset = Dataset(
            name=record["name"],
            digest=record["digest"][:MAX_DIGEST_LENGTH],
            source_type="local" if "://" not in location else location.partition("://")[0],
            source=json.dumps({"uri": location}),
            schema=json.dumps({"mlflow_colspec": COLUMNS}),
            profile=json.dumps({"num_rows": record["images"], **record.get("more", {})}),
        )
        tags = [InputTag("mlflow.data.context", "training")]
        self.client.log_inputs(self.run_id, [DatasetInput(dataset, tags)])

    def _refuse_other_place(self, run: Folder) -> None:
        """Refuse a store in a file that names another place for files than beside it.

        Such a store may have come with a run, and the place in it may be any folder here. One
        that the environment names did not.

        Raises:
            BlockedError: If it does; a server for that store would take the files.
            UnavailableError: If it does not answer.
        """
        file = store_file(self.uri)
        if file is None or is_trusted(self.uri):
            return
        with sorted_answers(refusal=BlockedError):
            found = self.client.get_run(self.run_id).info
            experiment = self.client.get_experiment(found.experiment_id)
            trigger = trigger_of(file)
        beside = artifacts_beside(file)
        for place in (found.artifact_uri, experiment.artifact_location):
            if not lies_in(place, beside):
                new = job_command("sync", "--run", run, "--uri", store_address(f"{file}.new.db"))
                raise BlockedError(
                    f"the store in {file} keeps files of this run in {place}, which is not below "
                    f"{beside}: files are not written where a store says that may have come with "
                    "the run. If the place is right, name the store with MLFLOW_TRACKING_URI; else "
                    f"send the whole run to a new store with {new}"
                )
        if trigger is not None:
            raise BlockedError(
                f"the store in {file} has a trigger or view ({ascii(trigger)[:60]}), which MLflow "
                "does not make, and which could change places while they are written. If it is "
                "yours, name the store with MLFLOW_TRACKING_URI"
            )

    def _image(self, record: Record, run: Folder) -> None:
        """Log a picture, and of a grid the first captions each, so that runs compare by caption."""
        png = read_file(run, record["file"])
        with open_png(io.BytesIO(png)) as picture:
            self._picture(record, run, record["key"], picture, png)
            cells = cut(picture, read_layout(run, record["file"]), MAX_CAPTIONS)
        for name, (_, cell) in zip(names_of([text for text, _ in cells]), cells, strict=True):
            # MLflow shows this as NAME in a section of the key.
            self._picture(record, run, f"{record['key']}~{name}", cell)
        self.client.set_tag(self.run_id, "mlflow.loggedImages", True)

    def _picture(
        self, record: Record, run: Folder, key: str, shown: Image.Image, png: bytes | None = None
    ) -> None:
        """Log a picture as MLflow does it itself, but under a name that is always the same."""
        step, time = record["step"], record["time"]
        unique = uuid.uuid5(uuid.NAMESPACE_OID, f"{self.run_id} {key} {step} {time}")
        name = plain_name(run, f"{key}+step+{step}+timestamp+{time}+{unique}")
        with tempfile.TemporaryDirectory() as folder:
            whole, small = Path(folder) / f"{name}.png", Path(folder) / f"{name}+compressed.webp"
            if png is None:
                shown.save(whole)
            else:
                whole.write_bytes(png)
            scale = COMPRESSED_SIZE / max(shown.size)
            shown.resize([max(1, int(side * scale)) for side in shown.size]).save(small)
            for path in (whole, small):
                self.client.log_artifact(self.run_id, str(path), "images")

    def _file(self, record: Record, run: Folder) -> None:
        content = read_file(
            run, plain_name(run, record["file"]), checked_sha256(record.get("sha256"))
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / record["file"]
            path.write_bytes(content)
            self.client.log_artifact(self.run_id, str(path))

    def _model(self, record: Record, model: Folder) -> None:
        content = {
            name: read_file(model, plain_name(model, name), checked_sha256(sha256))
            for name, sha256 in record["files"].items()
        }
        run = self.client.get_run(self.run_id)
        with fluent_api(self.uri):
            log_model(self.client, run, record, content)

    def _note(self, record: Record) -> None:
        """Write the note on the run, unless a person has written one."""
        tags = self.client.get_run(self.run_id).data.tags
        self._write_note(with_qualities(record["text"], qualities(tags)), tags)

    def _quality(self, record: Record) -> None:
        mark_quality(self.client, self.run_id, Quality(**record["quality"]))
        tags = self.client.get_run(self.run_id).data.tags
        if NOTE in tags:
            self._write_note(with_qualities(tags[NOTE], qualities(tags)), tags)

    def _write_note(self, text: str, tags: dict[str, str]) -> None:
        if NOTE not in tags or tags.get(OUR_NOTE) == _digest(tags[NOTE]):
            both = [RunTag(NOTE, text), RunTag(OUR_NOTE, _digest(text))]
            self.client.log_batch(self.run_id, tags=both)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _stage(client: MlflowClient, run_id: str) -> str | None:
    """Return "active" or "deleted"; None if there is no such run."""
    try:
        return str(client.get_run(run_id).info.lifecycle_stage)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
