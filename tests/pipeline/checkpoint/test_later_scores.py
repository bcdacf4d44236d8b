"""Checkpoints that are measured after they were committed: which is best, and which stay."""

import math
from dataclasses import asdict

import pytest

from pipeline.checkpoint.later_scores import MEASURED, LaterScores
from pipeline.checkpoint.store import (
    Score,
    best_checkpoint,
    commit,
    content_of,
    delete_after,
    waiting,
)
from pipeline.storage.folder import Folder
from tests.pipeline.checkpoint.checkpoints import STATE


@pytest.fixture
def root(tmp_path) -> Folder:
    return Folder(str(tmp_path))


def name(step: int) -> str:
    return f"step-{step:08d}"


def save(root: Folder, *steps: int, content: bytes = b"w", **options) -> None:
    for step in steps:
        commit(root, [("weights", content)], step=step, state=STATE, keep=2, **options)


def found(root: Folder, step: int, value: float, later: LaterScores | None = None) -> LaterScores:
    """Add the distance of a checkpoint to what is known, and keep that."""
    score = asdict(Score("eval/fid", value, higher_is_better=False))
    known = later or LaterScores.read(root)
    known = known.with_score(name(step), content_of(root / name(step)), score)
    known.write(root)
    return known


def kept(root: Folder) -> list[str]:
    return [each for each in root.names() if each.startswith("step-")]


def test_a_checkpoint_that_is_being_measured_is_not_removed(root):
    save(root, 10, 20)
    LaterScores(measuring=name(10)).write(root)

    save(root, 30, 40)

    assert kept(root) == [name(10), name(30), name(40)]
    found(root, 10, math.nan)
    save(root, 50)
    assert kept(root) == [name(40), name(50)], "measured, and not the best"


def test_a_score_that_comes_later_decides_which_is_best_and_stays(root):
    save(root, 10, 20)
    found(root, 10, 3.0)
    found(root, 20, 5.0)

    save(root, 30, 40)
    first = kept(root), best_checkpoint(root)
    found(root, 30, 2.0)
    save(root, 50)

    assert first == ([name(10), name(30), name(40)], (10, Score("eval/fid", 3.0, False)))
    assert kept(root) == [name(30), name(40), name(50)]
    assert (root / name(50)).read_json("state.json")["best"]["step"] == 30
    assert best_checkpoint(root) == (30, Score("eval/fid", 2.0, False))


def test_a_best_that_is_found_while_a_checkpoint_is_written_is_kept(root):
    save(root, 10, 20)
    LaterScores(measuring=name(10)).write(root)

    def files():
        found(root, 10, 1.0)
        yield "weights", b"w"

    commit(root, files(), step=30, state=STATE, keep=2)

    assert kept(root) == [name(10), name(20), name(30)]


def test_after_a_rollback_a_score_of_other_content_does_not_count(root):
    save(root, 10, 20)
    known = found(root, 20, 1.0)
    measured = best_checkpoint(root), waiting(root, known)

    delete_after(root, 10)
    save(root, 20, content=b"other")

    assert measured == ((20, Score("eval/fid", 1.0, False)), [])
    assert best_checkpoint(root) is None
    assert [each for each, _ in waiting(root, known)] == [name(10), name(20)]


def test_an_older_checkpoint_never_follows_a_newer_one(root):
    save(root, 10, 20)
    both = waiting(root, LaterScores())
    known = found(root, 20, 1.0)
    save(root, 30)

    assert [each for each, _ in both] == [name(10), name(20)]
    assert both[1][1] == content_of(root / name(20))
    assert [each for each, _ in waiting(root, known)] == [name(30)]


def test_what_is_measured_beside_decides_over_what_the_checkpoint_says(root):
    save(root, 10, score=Score("eval/fd_builtin", 1.0, higher_is_better=False))
    save(root, 20, score=Score("eval/fd_builtin", 2.0, higher_is_better=False))
    before = best_checkpoint(root)

    found(root, 10, 9.0, found(root, 20, 8.0))

    assert before == (10, Score("eval/fd_builtin", 1.0, False))
    assert best_checkpoint(root) == (20, Score("eval/fid", 8.0, False))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b'{"scores": 3}', b'{"scores": {"step-00000010": 7}}', b'{"x": 1}'],
)
def test_a_damaged_record_stops_no_checkpoint(root, content):
    save(root, 10, score=Score("eval/fid", 1.0))
    root.write(MEASURED, content)

    save(root, 20, 30)

    assert kept(root) == [name(10), name(20), name(30)]
    assert LaterScores.read(root) == LaterScores()


def test_a_score_that_is_no_number_is_passed_over(root):
    save(root, 10, score=Score("eval/fid", 1.0))
    save(root, 20)
    odd = {"metric": "eval/fid", "value": "9", "higher_is_better": True}

    LaterScores(scores={name(20): {"content": content_of(root / name(20)), "score": odd}}).write(
        root
    )

    assert best_checkpoint(root) == (10, Score("eval/fid", 1.0))


def test_scores_of_checkpoints_that_are_gone_are_not_kept(root):
    save(root, 10, 20)
    known = found(root, 10, 2.0)
    known = found(root, 20, 1.0, known)
    save(root, 30, 40)

    known.write(root)

    assert list(LaterScores.read(root).scores) == [name(20)]


def test_a_run_that_is_not_measured_beside_reads_no_more_than_before(root, monkeypatch):
    def read(checkpoints: Folder) -> LaterScores:
        raise AssertionError(f"{checkpoints} was looked through for scores")

    monkeypatch.setattr(LaterScores, "read", read)

    save(root, 10, 20, 30)

    assert kept(root) == [name(20), name(30)]
