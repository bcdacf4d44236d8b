"""Add metrics to the record of a run that has ended."""

from collections.abc import Mapping
from types import MappingProxyType

from pipeline.storage.folder import Folder
from pipeline.tracking.best_version import Quality
from pipeline.tracking.run_record import read_record
from pipeline.tracking.sender import send_rest, what_is_left
from pipeline.tracking.tracker import Tracker, address, sync_command


def record_numbers(
    run: Folder,
    step: int,
    values: dict[str, float],
    *,
    tags: Mapping[str, str] = MappingProxyType({}),
    pictures: Mapping[str, str] = MappingProxyType({}),
    quality: Quality | None = None,
    uri: str | None = None,
) -> str:
    """Add points, tags and pictures to a run that MLflow knows, and send them.

    Args:
        run: Its folder.
        step: That they are of.
        values: By name of the curve.
        tags: By name.
        pictures: Files in the run's folder by what they show.
        quality: The number by which models are compared, if it is found too.
        uri: Of the tracker; its own, if not given.

    Returns:
        What became of it, for people.
    """
    tracker = Tracker(run)
    if tracker.is_new():
        return "the run has no record in MLflow"
    tracker.measured(step, values)
    if quality is not None:
        tracker.quality(quality)
    for key, value in tags.items():
        tracker.tag(key, value)
    for key, file in pictures.items():
        tracker.image(key, step, file, afterwards=True)
    tracker.flush()
    sender = send_rest(run, address(run, uri, "--tracking-uri"))
    if left := sender.delivery.left():
        return (
            f"{what_is_left(left)} of {run} are not there yet: {sender.problem or 'slow'}. Send "
            f"them with: {sync_command(run, sender.delivery.uri)}"
        )
    return f"run {read_record(run).get('mlflow_run_id')}"
