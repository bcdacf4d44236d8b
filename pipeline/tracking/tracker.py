"""Log a run: options, metrics, images, datasets and the final model.

All of it is kept in the run's folder (`spool.py`) and sent from there (`sender.py`): nothing
here waits for a network.
"""

import hashlib
import logging
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.common.commands import job_command
from pipeline.common.redaction import redacted
from pipeline.storage.folder import Folder
from pipeline.tracking.best_version import Quality
from pipeline.tracking.run_record import RUN_RECORD, read_record
from pipeline.tracking.spool import RECORDS, SPOOL, Spool
from pipeline.tracking.store_file import (
    STORE,
    escaped_address,
    holds_run,
    store_address,
    store_file,
)

logger = logging.getLogger(__name__)

START = "start.json"  # in the spool: what the run is made of in MLflow; written last


def tracking_uri(configured: str | None, output: Folder, *, create: bool = True) -> str:
    """Decide where runs are recorded: the option, the environment, or a file beside the runs.

    Args:
        configured: The option.
        output: Folder of the runs.
        create: Make that folder if the file is to be in it.

    Raises:
        ValueError: If none is named and the output folder is in a bucket.
    """
    uri = configured or os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        return escaped_address(uri)
    if output.local_path is None:
        raise ValueError(
            f"runs in {output} need an MLflow server that every node reaches: name it with "
            "MLFLOW_TRACKING_URI or --tracking.uri."
        )
    if create:
        Path(output.local_path).mkdir(parents=True, exist_ok=True)
    return store_address(f"{output.local_path}/{STORE}")


@dataclass(frozen=True)
class PartOf:
    """What a run is part of: a sweep, for example, under whose run it stands in MLflow.

    Attributes:
        parent: Our id of the parent's run, as `Tracker.begin` returned it.
        tags: That the run is created with.
    """

    parent: str
    tags: Mapping[str, str] = field(default_factory=dict)


class Tracker:
    """One process's side of a run's record; each call adds to the run's spool.

    A step that is told twice, since a start was cut short after its last checkpoint, stays
    one point: the sender passes over what a curve already has.
    """

    def __init__(self, run: Folder) -> None:
        self.run = run.closed()
        self.spool = Spool(self.run / SPOOL / RECORDS)

    def is_new(self) -> bool:
        """Tell whether the run was never begun."""
        return not (self.run / SPOOL).exists(START)

    def begin(
        self, *, experiment: str, name: str, tags: dict[str, str], part_of: PartOf | None = None
    ) -> str:
        """Say what run this is, after all that it starts with was told.

        Args:
            experiment: Created if it is not there.
            name: Of the run.
            tags: That it is created with.
            part_of: What it is part of.

        Returns:
            Our id of the run, for those that are part of it.
        """
        self.spool.flush()
        start = {
            # By it the run is found where it was created and its id did not come back.
            "id": uuid.uuid4().hex,
            "experiment": experiment,
            "name": name,
            # Of what MLflow finds out by itself: an address of a repository may hold a token.
            "tags": {
                key: redacted(value)
                for key, value in (tags | dict(part_of.tags if part_of else {})).items()
            },
            "parent": part_of.parent if part_of else None,
            "time": _now(),
        }
        (self.run / SPOOL).write_json(START, start)
        return str(start["id"])

    def options(self, params: dict[str, object], tags: dict[str, str]) -> None:
        """Tell the resolved options by dotted name, and what else identifies the run."""
        texts = {name: str(value) for name, value in sorted(params.items())}
        self._tell("options", params=texts, tags=tags)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Tell points of curves."""
        self._tell("points", step=step, values={key: float(v) for key, v in values.items()})

    def measured(self, step: int, values: dict[str, float]) -> None:
        """Tell what was measured of a step's model after it: perhaps again, and of an older one."""
        values = {key: float(v) for key, v in values.items()}
        self._tell("measured", step=step, values=values)

    def tag(self, key: str, value: str) -> None:
        """Mark the run."""
        self._tell("options", params={}, tags={key: value})

    def image(self, key: str, step: int, file: str, *, afterwards: bool = False) -> None:
        """Tell of a picture that the UI shows with a slider over steps.

        Args:
            key: What it shows.
            step: When it was made, or what it is of.
            file: PNG in the run's folder.
            afterwards: Made after that step: perhaps again, and of an older one.
        """
        more = {"afterwards": True} if afterwards else {}
        self._tell("image", key=key, step=step, file=file, **more)

    def note(self, text: str) -> None:
        """Tell what the run is in plain words, in Markdown; takes the place of the last note.

        A note that a person wrote in the UI stays.
        """
        self._tell("note", text=text)

    def quality(self, quality: Quality) -> None:
        """Tell how good the model of a step is: a point of a curve, and what versions go by."""
        self.measured(quality.step, {quality.metric: quality.value})
        self._tell("quality", quality=asdict(quality))

    def dataset(
        self, name: str, digest: str, location: str, images: int, **more: int | str
    ) -> None:
        """Tell what the run trains on.

        Args:
            name: Of its source.
            digest: Of its manifest, sha256 in hex.
            location: Folder or bucket address.
            images: Number for training.
            **more: What else there is to know of it, by name.
        """
        fields = {"name": name, "digest": digest, "location": location, "images": images}
        self._tell("dataset", **fields, more=more)

    def json(self, value: dict[str, Any], file: str) -> None:
        """Tell a record, to be kept as a JSON file."""
        self._tell("json", value=value, file=file)

    def file(self, file: str, sha256: str) -> None:
        """Tell of a file in the run's folder."""
        self._tell("file", file=file, sha256=sha256)

    def model(
        self,
        files: dict[str, bytes],
        example: list[str],
        text_encoder: str,
        *,
        step: int,
        name: str,
        description: str,
    ) -> None:
        """Tell of the trained model in the run's folder `model`.

        Args:
            files: Its content by file name.
            example: Captions.
            text_encoder: Name; decides what must be installed to load the model.
            step: It is of.
            name: Of the registered model that it becomes a version of.
            description: Of that, if there is none yet.
        """
        self._tell(
            "model",
            files={file: hashlib.sha256(content).hexdigest() for file, content in files.items()},
            example=example,
            text_encoder=text_encoder,
            step=step,
            name=name,
            description=description,
        )

    def resume(self) -> None:
        """Tell that the run goes on."""
        self._tell("status", status="RUNNING")

    def finish(self, status: str) -> None:
        """Tell that the run is FINISHED, FAILED or KILLED; hides no error that ended it."""
        self._tell("status", status=status)
        try:
            self.flush()
        except Exception as error:  # each object store has errors of its own
            logger.warning("the end of run %s, %s, could not be kept: %s", self.run, status, error)

    def flush(self) -> None:
        """Return when all that was told is durable.

        Raises:
            OSError: If it cannot be written.
        """
        self.spool.flush()

    def _tell(self, kind: str, **fields: object) -> None:
        self.spool.append({"kind": kind, "time": _now()} | fields)


def _now() -> int:
    """Return the time in milliseconds since 1970, as MLflow counts it."""
    return time.time_ns() // 1_000_000


def address(
    run: Folder, configured: str | None = None, option: str = "--uri", otherwise: str = ""
) -> str:
    """Find the tracker of a run: the option, else what its record says, if that is known here.

    What is sent goes with the user and password of the environment, and a record may be of a
    stranger: so it only chooses between the environment and the file beside the run, or beside
    the sweep that the run is in. The record has no password; the environment may name the same
    place with one. The record of a run that was moved or copied with its store names the old place:
    the store that lies beside it now is its own, if the run is in it.

    Args:
        run: Its folder.
        configured: The option.
        option: What the user calls it.
        otherwise: What else the user can do, for the error.

    Raises:
        ValueError: If the record names another place.
    """
    above = Folder(run.location.rpartition("/")[0])
    record = read_record(run)
    recorded = record.get("mlflow_uri")
    if configured or recorded is None:
        return tracking_uri(configured, above)
    recorded = str(recorded)
    # The file beside the runs, as `tracking_uri` names it where nothing else is said.
    folders = [above]
    if above.exists(RUN_RECORD):  # a sweep is a run too
        folders.append(Folder(above.location.rpartition("/")[0]))
    beside = [Path(f"{each.local_path}/{STORE}") for each in folders if each.local_path]
    known = [escaped_address(os.environ.get("MLFLOW_TRACKING_URI", ""))]
    known += [store_address(file) for file in beside]
    for each in filter(None, known):
        if redacted(each) == recorded or _is_file(each, recorded):
            return each
    if store_file(recorded) is not None:
        for file in beside:
            if holds_run(file, record.get("mlflow_run_id")):
                return store_address(file)
    raise ValueError(
        f"{run}/{RUN_RECORD} names the tracker {recorded}, and here it would be "
        f"{redacted(next(filter(None, known), 'none'))}. What is sent goes with your user name and "
        "password, so no address is taken from a file that others may have written. Name the one "
        f"you mean with {option}{otherwise}."
    )


def _is_file(uri: str, recorded: str) -> bool:
    """Tell whether an address is of the file that a record names, however that is written there."""
    file, named = store_file(uri), store_file(recorded)
    return file is not None and named is not None and file.resolve() == named.resolve()


def sync_command(run: Folder, uri: str) -> str:
    """Return the command that sends what is left of a run.

    Args:
        run: Its folder, or that of its sweep.
        uri: Of its tracker.
    """
    try:
        known = address(run) == uri
    except ValueError:
        known = False
    return job_command("sync", "--run", run, *(() if known else ("--uri", redacted(uri))))
