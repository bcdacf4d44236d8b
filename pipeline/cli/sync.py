"""Send what runs logged: to MLflow while it did not answer, or all of it to TensorBoard."""

from collections.abc import Iterator

from pipeline.cli.config import SyncConfig
from pipeline.common.console import DryRunReport, print_line
from pipeline.common.redaction import redacted
from pipeline.storage.folder import Folder, absolute
from pipeline.sweeps.study_folder import STUDY
from pipeline.tracking.mlflow_access import state_of
from pipeline.tracking.refusals import BlockedError, UnavailableError
from pipeline.tracking.run_record import RUN_RECORD
from pipeline.tracking.sender import Delivery, send_rest, what_is_left
from pipeline.tracking.spool import SPOOL
from pipeline.tracking.tensorboard import EVENTS, read_history, write_history
from pipeline.tracking.tracker import START, address


def sync(config: SyncConfig) -> None:
    """Send the unsent records run after run, and print how many there were.

    Raises:
        ValueError: If there is no run, an option is not for where it goes, or a run names another
            tracker or leads out of its folder; the others are sent before.
        ConnectionError: If some could not be sent.
    """
    _refuse_unused(config)
    if config.to == "tensorboard":
        _write_for_tensorboard(config)
        return
    refused_runs: list[str] = []
    unsent: list[str] = []
    blocked: list[str] = []
    for run in _runs(config):
        try:
            uri = address(run, config.uri)
            sender = send_rest(run, uri)
        except ValueError as error:
            refused_runs.append(str(error))
            continue
        delivery = sender.delivery
        left = delivery.left()
        refused = f", {delivery.refused:,} refused (see {delivery.spool}/refused)"
        print_line(
            f"{run}: {delivery.delivered:,} records sent to {redacted(uri)}"
            f"{refused if delivery.refused else ''}"
            f"{f', {what_is_left(left)} left' if left else ''}"
        )
        if left:
            reason = f"{run}: {sender.problem or 'not all of it was sent in time'}"
            (blocked if sender.blocked else unsent).append(reason)
    _refuse(
        {
            "MLflow did not accept everything. Nothing is lost: make sure that it answers, and run "
            "the same command again.": unsent,
            "MLflow refuses what is left of these runs. Nothing is lost: do what each line says, "
            "and run the same command again.": blocked,
        },
        refused_runs,
    )


def _refuse(unsent: dict[str, list[str]], refused: list[str]) -> None:
    """Raise one error for all runs that were not sent.

    Args:
        unsent: Runs with their reasons, below what is said of all of them.
        refused: Those that may not be sent.

    Raises:
        ConnectionError: If there are any of the first.
        ValueError: If there are any of the second only.
    """
    lines = [line for head, runs in unsent.items() if runs for line in (head, *runs)]
    if lines:
        raise ConnectionError("\n".join([*lines, *refused]))
    if refused:
        raise ValueError("\n".join(refused))


def plan_sync(config: SyncConfig) -> None:
    """Print what would be sent, and where.

    Raises:
        ValueError: If there is no run, or if one would be refused; after all are printed.
        ConnectionError: If something would be sent to a tracker that does not answer.
    """
    _refuse_unused(config)
    report = DryRunReport()
    refused: list[str] = []
    if config.to == "tensorboard":
        for run in _runs(config):
            try:
                output, found = _output(config, run), read_history(run)
                output.exists(EVENTS)  # refused where writing would be
            except ValueError as error:
                refused.append(f"{run}: {error}")
                continue
            points, images = len(found.points), len(found.images)
            report.line(
                "run", f"{run}: {points:,} points and {images:,} images to write to {output}"
            )
        report.end()
        _refuse({}, refused)
        return
    silent: list[str] = []
    blocked: list[str] = []
    for run in _runs(config):
        try:
            uri = address(run, config.uri)
            left = Delivery(run, uri).left()
        except ValueError as error:
            refused.append(str(error))
            continue
        unsent = what_is_left(left) if left else "nothing"
        report.line("run", f"{run}: {unsent} to send to {redacted(uri)}")
        try:
            experiment = (run / SPOOL).read_json(START)["experiment"]
            report.line("tracker", f"{redacted(uri)} {state_of(uri, experiment)}")
        except UnavailableError as error:
            if left:
                (blocked if isinstance(error, BlockedError) else silent).append(f"{run}: {error}")
    report.end()
    _refuse({"MLflow does not answer:": silent, "MLflow refuses these runs:": blocked}, refused)


def _write_for_tensorboard(config: SyncConfig) -> None:
    """Write the history of run after run; raises ValueError at the end for those refused."""
    refused: list[str] = []
    for run in _runs(config):
        try:
            output = _output(config, run)
            history = write_history(run, output)
        except ValueError as error:
            refused.append(f"{run}: {error}")
            continue
        points, images = len(history.points), len(history.images)
        print_line(f"{run}: {points:,} points and {images:,} images written to {output}")
        if left_out := history.left_out:
            print_line(f"  left out: {len(left_out):,}; the first is {left_out[0]}")
    _refuse({}, refused)


def _refuse_unused(config: SyncConfig) -> None:
    option = "output" if config.to == "mlflow" else "uri"
    if (value := getattr(config, option)) is not None:
        raise ValueError(
            f"{option}={redacted(value)} does not go with to={config.to}: leave --{option} out."
        )


def _output(config: SyncConfig, run: Folder) -> Folder:
    """Return the folder of a run's events; without an option it cannot leave the run's own."""
    if config.output is None:
        return run / "tensorboard"
    inner = str(run).removeprefix(str(Folder(absolute(config.run, "run")))).strip("/")
    return Folder(absolute(config.output, "output")) / (inner or str(run).rpartition("/")[2])


def _runs(config: SyncConfig) -> list[Folder]:
    """Return the runs in a folder, or the folder itself if it is a run.

    Raises:
        ValueError: If there is none.
    """
    place = Folder(absolute(config.run, "run"))
    runs = [run.closed() for run in _places(place) if _is_run(run)]
    if not runs:
        raise ValueError(
            f"run={place} is not the folder of a run and contains none: a run has {SPOOL}/{START}. "
            "Name one, for example --run outputs/NAME, or the folder that contains it."
        )
    return runs


def _places(place: Folder) -> Iterator[Folder]:
    """Yield folders that may be runs; a sweep before its trials, which are its child runs."""
    yield place
    for name in place.names():
        yield place / name
        if (place / name).exists(STUDY):
            yield from (place / name / trial for trial in (place / name).names())


def _is_run(folder: Folder) -> bool:
    return folder.exists(RUN_RECORD) and folder.exists(f"{SPOOL}/{START}")
