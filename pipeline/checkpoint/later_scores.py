"""Scores that checkpoints get after they were committed, from who measures beside the training."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.storage.folder import Folder

MEASURED = "measured.json"  # in the folder of checkpoints


@dataclass(frozen=True)
class LaterScores:
    """What is known of checkpoints that are measured after they were committed.

    One process writes it, the driver of the run; whoever commits and prunes reads it.

    Attributes:
        measuring: Name of the checkpoint that is being measured: it is not removed.
        scores: By name, which content was measured, as the marker of the checkpoint names it, and
            the score, as JSON types; None if it does not count.
    """

    measuring: str | None = None
    scores: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, checkpoints: Folder) -> "LaterScores":
        """Read it; empty if there is none, or it is damaged: scores can be found again."""
        try:
            found = cls(**checkpoints.read_json(MEASURED))
            return cls(found.measuring, {name: dict(each) for name, each in found.scores.items()})
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            return cls()

    def write(self, checkpoints: Folder) -> None:
        """Keep it, without the scores of checkpoints that are gone."""
        there = set(checkpoints.names())
        scores = {name: each for name, each in self.scores.items() if name in there}
        checkpoints.write_json(MEASURED, asdict(LaterScores(self.measuring, scores)))

    def with_score(self, name: str, content: str, score: dict[str, Any] | None) -> "LaterScores":
        """Return it with what was found of a checkpoint, which is not being measured any more."""
        return LaterScores(None, {**self.scores, name: {"content": content, "score": score}})

    def of(self, name: str, content: str | None) -> dict[str, Any] | None:
        """Return what was found of a checkpoint with that content; None if it was not measured.

        After a rollback the run makes other checkpoints of the same names.
        """
        found = self.scores.get(name, {})
        return found if content is not None and found.get("content") == content else None
