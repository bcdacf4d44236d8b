"""Add metrics to the record of a run, of a model that was measured after its step."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.storage.folder import Folder
from pipeline.tracking.best_version import Quality
from pipeline.tracking.run_record import read_record
from pipeline.tracking.sender import send_rest, what_is_left
from pipeline.tracking.tracker import Tracker, address, sync_command


@dataclass(frozen=True)
class Findings:
    """What was measured of the model of a step.

    Attributes:
        step: Of the model.
        values: By name of the curve.
        tags: By name.
        pictures: Files in the run's folder by what they show.
        quality: The number by which models are compared, if it is found too.
    """

    step: int
    values: Mapping[str, float]
    tags: Mapping[str, str] = field(default_factory=dict)
    pictures: Mapping[str, str] = field(default_factory=dict)
    quality: Quality | None = None

    def tell(self, tracker: Tracker) -> None:
        """Tell all of it, durably; told again, it still counts once."""
        tracker.measured(self.step, dict(self.values))
        if self.quality is not None:
            tracker.quality(self.quality)
        for key, value in self.tags.items():
            tracker.tag(key, value)
        for key, file in self.pictures.items():
            tracker.image(key, self.step, file, afterwards=True)
        tracker.flush()


def record_numbers(run: Folder, found: Findings, *, uri: str | None = None) -> str:
    """Add findings to a run that MLflow knows and that is not being trained, and send them.

    Args:
        run: Its folder.
        found: What was measured.
        uri: Of the tracker; its own, if not given.

    Returns:
        What became of it, for people.
    """
    tracker = Tracker(run)
    if tracker.is_new():
        return "the run has no record in MLflow"
    found.tell(tracker)
    sender = send_rest(run, address(run, uri, "--tracking-uri"))
    if left := sender.delivery.left():
        problem = (sender.problem or "slow").removesuffix(".")
        return (
            f"{what_is_left(left)} of {run} are not there yet: {problem}. Send them with: "
            f"{sync_command(run, sender.delivery.uri)}"
        )
    return f"run {read_record(run).get('mlflow_run_id')}"
