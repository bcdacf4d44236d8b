"""Commit, verify, retain and restore training checkpoints.

    checkpoints/
        step-00001000/
            …             what is trained, as safetensors, in the files of its own kind of training
            state.json    step, place in the data, config, dataset, encoder, versions, score, best
            files.json    sha256 of every file above
            COMMITTED     sha256 of files.json; written last, when all of it was read back
        damaged-step-…/   was committed and does not verify any more; never looked at again
    measured.json         scores found later, beside the training, and what is being measured

A folder without its marker was cut short: it is passed over, and removed by a later commit.
There is no pickle and no state of a random generator: numbers drawn follow from seed and step.
"""

import errno
import hashlib
import logging
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from pipeline.checkpoint.host_copy import refuse_not_finite
from pipeline.checkpoint.later_scores import MEASURED, LaterScores
from pipeline.common.failpoints import reach
from pipeline.storage.disk_space import DiskFullError, check_room, disk_full
from pipeline.storage.folder import Folder
from pipeline.storage.local_disk import NO_ROOM
from pipeline.storage.safe_path import inside

logger = logging.getLogger(__name__)

FILES = "files.json"
MARKER = "COMMITTED"
STATE = "state.json"
PREFIX = "step-"
DAMAGED = "damaged-"
SAFE_TO_KEEP = 2  # with fewer, a disk that fails takes all there is


@dataclass(frozen=True)
class Score:
    """How good a checkpoint is by one measure.

    Attributes:
        metric: Name of the measure, as it is logged.
        value: What was measured.
        higher_is_better: Its direction.
    """

    metric: str
    value: float
    higher_is_better: bool = True

    def beats(self, other: "Score | None") -> bool:
        """Tell whether it is better than another of the same measure; NaN beats nothing."""
        if other is None or other.metric != self.metric:
            return self.value == self.value
        if self.higher_is_better:
            return self.value > other.value
        return self.value < other.value


def commit(
    root: Folder,
    files: Iterable[tuple[str, bytes]],
    *,
    step: int,
    state: Mapping[str, Any],
    keep: int,
    score: Score | None = None,
    extra: bool = False,
    size: int = 0,
) -> Folder:
    """Write the files of a checkpoint, read them back, mark it, and let go of old ones.

    The newest `keep` stay, and beside them the best by the measure of `score`.

    Args:
        root: Folder of the run's checkpoints.
        files: Names and contents, taken one at a time: each may be large.
        step: Steps done.
        state: What else the run needs to go on, as JSON types.
        keep: Newest checkpoints to keep, at least 2.
        score: How good it is, where that was measured.
        extra: It is not one of those that come at an interval: of a stop, or of the last step. It
            goes with the next one, so that a run has the others then that it would have anyway.
        size: About how many bytes the files have, to ask for room before anything is written.

    Returns:
        The committed checkpoint.

    Raises:
        ValueError: If fewer than 2 are to be kept.
        DiskFullError: If there is no room; nothing of it is left then.
        OSError: If it cannot be written, or reads back as something else.
    """
    if keep < SAFE_TO_KEEP:
        raise ValueError(
            f"keep={keep} must be at least {SAFE_TO_KEEP}: if the newest checkpoint is damaged "
            "later, the one before it is all there is."
        )
    folder = root / _name(step)
    what = f"the checkpoint of step {step:,}"
    best = best_checkpoint(root, before=step)
    if score is not None and score.beats(best[1] if best else None):
        best = (step, score)
    state = {
        **state,
        "step": step,
        "extra": extra,
        "score": None if score is None else asdict(score),
        "best": None if best is None else {"step": best[0], **asdict(best[1])},
    }
    _remove(folder)  # left by a start that was cut short here
    try:
        check_room(root, size, what)
        hashes = {}
        for name, content in files:
            reach("checkpoint.before_write", step=step, file=name)
            hashes[name] = folder.write(name, content)
        hashes[STATE] = folder.write_json(STATE, state)
        listed = folder.write_json(FILES, hashes)
        if problem := _difference(folder, {**hashes, FILES: listed}):
            raise OSError(
                f"{what} was written to {folder} and reads back damaged: {problem}. The one "
                "before is kept. Check that disk, or name another folder with --output."
            )
        reach("checkpoint.before_marker", step=step)
        folder.write(MARKER, listed.encode())
    except OSError as error:
        _remove_if_possible(folder)
        if error.errno in NO_ROOM and not isinstance(error, DiskFullError):
            raise disk_full(root, size, what, error.errno) from error
        raise
    except Exception:
        _remove_if_possible(folder)
        raise
    reach("checkpoint.after_marker", step=step)
    reach("checkpoint.before_letting_go", step=step)
    prune(root, step, keep, None if best is None else best[0])
    return folder


def newest_checkpoint(
    root: Folder, *, extras: bool = True, set_aside: bool = False
) -> tuple[Folder, dict[str, Any]] | None:
    """Find the newest checkpoint that verifies, and its state; None if there is none.

    Args:
        root: Folder of the run's checkpoints.
        extras: Those count too that came at no interval; otherwise only if there is no other.
        set_aside: Rename damaged ones that are found on the way, so that they are not looked at
            again: for whoever trains the run. To others they may look so for a moment.
    """
    extra = None
    for step in reversed(_steps(root.names())):
        folder = root / _name(step)
        problem = damage(folder)
        if problem is None:
            found = folder, folder.read_json(STATE)
            if extras or not found[1].get("extra"):
                return found
            extra = extra or found
        elif not folder.exists(MARKER):
            logger.warning("checkpoint %s is passed over: it was not completed", folder)
        elif set_aside:
            _set_aside(root, folder, problem)
        else:
            logger.warning("checkpoint %s is damaged: %s", folder, problem)
    return extra


def delete_after(root: Folder, after: int) -> None:
    """Remove the checkpoints after a step: a run that went back to it goes another way from there.

    Args:
        root: Folder of the run's checkpoints.
        after: The step.
    """
    for step in _steps(root.names()):
        if step > after:
            _remove(root / _name(step))


def damage(folder: Folder) -> str | None:
    """Say what is wrong with a checkpoint, or None; each byte of it is read and hashed."""
    try:
        listed = folder.read(MARKER).decode("ascii", "replace")
        if problem := _difference(folder, {FILES: listed}):
            return problem
        files = folder.read_json(FILES)
        if not isinstance(files, dict):  # though its hash fits: of somebody who meant it
            return f"{FILES} lists no files"
        return _difference(folder, files)
    except FileNotFoundError as error:
        return f"a file is missing: {error}"
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return f"the disk does not give it back: {error}"


def read_tensors(folder: Folder, name: str) -> dict[str, Tensor]:
    """Read a file of tensors of a committed checkpoint.

    Each worker checks what it reads, at the moment it does: it may do so on another machine than
    the one that looked the checkpoint through.

    Raises:
        ValueError: If the file is damaged, is none of tensors, or holds NaN or an infinity.
    """
    content = folder.read(name)
    if hashlib.sha256(content).hexdigest() != folder.read_json(FILES).get(name):
        raise ValueError(
            f"{folder}/{name} is damaged: its hash is not the one in {FILES}. Start again: the "
            "newest checkpoint that verifies is taken."
        )
    try:
        tensors: dict[str, Tensor] = load(content)
    except SafetensorError as error:
        raise ValueError(f"{folder}/{name} is not a file of safetensors: {error}") from error
    refuse_not_finite({name: tensors}, str(folder))
    return tensors


def _difference(folder: Folder, hashes: Mapping[str, str]) -> str | None:
    """Name the first file that is not what its hash says, or None.

    Raises:
        ValueError: If one of the names is of no file in the folder.
    """
    for name, sha256 in hashes.items():
        if hashlib.sha256(folder.read(inside(folder, name, by_links=True))).hexdigest() != sha256:
            return f"{name} is not what its hash says"
    return None


def _name(step: int) -> str:
    return f"{PREFIX}{step:08d}"


def _steps(names: Iterable[str]) -> list[int]:
    """Pick the steps of which there is a folder, whole or not, in their order."""
    found = (re.fullmatch(rf"{PREFIX}(\d{{8,}})", name) for name in names)
    return sorted(int(match[1]) for match in found if match)


def _listed(root: Folder) -> tuple[list[int], LaterScores | None]:
    """List the steps, and read the scores found beside the training if there are any.

    One listing says both: a run that is not measured so pays nothing.
    """
    names = root.names()
    return _steps(names), LaterScores.read(root) if MEASURED in names else None


def waiting(root: Folder, later: LaterScores) -> list[tuple[str, str]]:
    """List the committed checkpoints after the last one that was measured, in their order.

    An older one never follows a newer one.

    Returns:
        Name and content of each.
    """
    found: list[tuple[str, str]] = []
    for step in reversed(_steps(root.names())):
        content = content_of(root / _name(step))
        if later.of(_name(step), content) is not None:
            break
        if content is not None:
            found.insert(0, (_name(step), content))
    return found


def content_of(folder: Folder) -> str | None:
    """Return what the marker of a checkpoint holds, which no other content has; None if none."""
    try:
        return folder.read(MARKER).decode("ascii", "replace")
    except FileNotFoundError:
        return None


def best_checkpoint(root: Folder, before: float = math.inf) -> tuple[int, Score] | None:
    """Find the best of the committed checkpoints before a step, and its score.

    What was measured beside the training comes before what the checkpoint itself says.
    """
    best: tuple[int, Score] | None = None
    steps, later = _listed(root)
    for step in steps:
        folder = root / _name(step)
        if step >= before or not folder.exists(MARKER):
            continue
        try:
            found = later and later.of(_name(step), content_of(folder))
            measured = (found or folder.read_json(STATE)).get("score")
            score = None if measured is None else Score(**measured)
            if score is not None and score.beats(best[1] if best else None):
                best = (step, score)
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            continue  # damaged: found out when it is looked for
    return best


def prune(root: Folder, newest: int, keep: int, best: int | None) -> None:
    """Remove what is older than the newest ones, is not the best, and is not being measured."""
    steps, later = _listed(root)
    if later is not None:
        # After the look at what is being measured: it ends with a score, which may be the best.
        found = best_checkpoint(root)
        best = found[0] if found else None
    older = [step for step in steps if step < newest]
    whole = [step for step in older if _is_kept(root / _name(step))]
    for step in sorted(set(older) - set(whole[-(keep - 1) :]) - {best}):
        if later is None or _name(step) != later.measuring:
            _remove_if_possible(root / _name(step))


def _is_kept(folder: Folder) -> bool:
    """Tell whether a checkpoint is a committed one of its interval."""
    if not folder.exists(MARKER):
        return False
    try:
        return not folder.read_json(STATE).get("extra")
    except (FileNotFoundError, ValueError, AttributeError):
        return True  # damaged: found out when it is looked for


def _remove(folder: Folder) -> None:
    """Delete a checkpoint, its marker first: what is left of it when cut short is no checkpoint."""
    folder.delete(MARKER)
    folder.remove()


def _remove_if_possible(folder: Folder) -> None:
    """Delete a checkpoint; if that fails, say so: it is no reason to stop."""
    try:
        _remove(folder)
    except OSError as error:
        logger.warning("%s could not be removed: %s", folder, error)


def _set_aside(root: Folder, folder: Folder, problem: str) -> None:
    """Rename a damaged checkpoint; if that fails, it is only passed over."""
    name = folder.location.rsplit("/", 1)[-1]
    aside = root / f"{DAMAGED}{name}"
    try:
        aside.remove()
        if not folder.backend.atomic_rename:
            # In a bucket each object is moved by itself: without its marker, a folder of which
            # some are still here is no checkpoint.
            folder.delete(MARKER)
        folder.rename(aside)
    except Exception as error:  # each object store has errors of its own
        logger.warning(
            "checkpoint %s is passed over: %s; it could not be set aside: %s",
            folder,
            problem,
            error,
        )
    else:
        logger.warning("checkpoint %s is damaged (%s) and now called %s", folder, problem, aside)
