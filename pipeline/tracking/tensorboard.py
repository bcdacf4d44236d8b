"""Write what the spool of a run holds as an event file of TensorBoard.

The whole history is written each time, in place of the file of last time: so each point stands
once, however often that is done.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from pipeline.storage.folder import Folder
from pipeline.tracking.spool import RECORDS, SPOOL, Record, read
from pipeline.tracking.untrusted_records import read_file

EVENTS = "events.out.tfevents.0.ratgan"  # TensorBoard reads files with "tfevents" in their names
Place = tuple[int, str]  # step and name


@dataclass
class History:
    """What a spool holds that TensorBoard shows.

    Attributes:
        points: Time in seconds and value.
        images: Time in seconds and file in the run's folder.
        left_out: Why something could not be written, one reason each.
    """

    points: dict[Place, tuple[float, float]] = field(default_factory=dict)
    images: dict[Place, tuple[float, str]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """Add a record; raises what a record of a stranger makes it raise."""
        time = int(record["time"]) / 1000
        match record["kind"]:
            case "points":
                # Steps that were trained again after a kill gave the same numbers: the first stays.
                for key, value in record["values"].items():
                    self.points.setdefault((record["step"], key), (time, value))
            case "measured":
                for key, value in record["values"].items():
                    self.points[record["step"], key] = (time, value)
            case "image":
                self.images[record["step"], record["key"]] = (time, record["file"])


def write_history(run: Folder, output: Folder) -> History:
    """Write the points and pictures of a run to a folder, and return what was found.

    Values are stored as TensorBoard stores them, in 32 bits.

    Raises:
        OSError: If spool or output cannot be read or written.
    """
    history = read_history(run)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / EVENTS
        writer = RecordWriter(str(path))
        for event in _events(run.closed(), history):
            writer.write(event.SerializeToString())
        writer.close()
        output.write(EVENTS, path.read_bytes())
    return history


def read_history(run: Folder) -> History:
    """Read the spool of a run; raises OSError if it cannot be read."""
    history = History()
    for entry in read(run.closed() / SPOOL / RECORDS, {}):
        try:
            if entry.record is None:
                raise ValueError("it is not a record")
            history.add(entry.record)
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            history.left_out.append(f"a line of {entry.writer}: {error!r}")
    return history


def _events(run: Folder, history: History) -> Iterator[Any]:
    """Yield the events; what cannot be one is noted in the history, and taken out of it."""
    first = min((time for time, _ in history.points.values()), default=0)
    yield Event(wall_time=first, file_version="brain.Event:2")
    both: list[tuple[bool, dict[Place, Any]]] = [(False, history.points), (True, history.images)]
    for are_images, found in both:
        for (step, key), (time, content) in list(found.items()):
            try:
                value = {"image": _image(run, content)} if are_images else {"simple_value": content}
                summary = Summary(value=[Summary.Value(tag=key, **value)])
                yield Event(wall_time=time, step=step, summary=summary)
            except (ArithmeticError, OSError, TypeError, ValueError) as error:
                del found[step, key]
                history.left_out.append(f"{key!r} of step {step!r}: {error}")


def _image(run: Folder, file: str) -> Any:
    content = read_file(run, file)
    try:
        with Image.open(BytesIO(content), formats=["PNG"]) as image:
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
    return Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=content)
