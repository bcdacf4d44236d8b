"""Stop a preparation when more originals are rejected than allowed."""

import io
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pyarrow.parquet as pq

from pipeline.common.console import printable
from pipeline.data.manifest import Shard
from pipeline.storage.folder import Folder


@dataclass(frozen=True)
class Budget:
    """The maximum of rejected originals, as a share or a count.

    Attributes:
        text: The option of the user.
        share: Share of all originals, in [0, 1].
    """

    text: str
    share: Fraction | None = None
    count: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Parse `5%` or `100`.

        Raises:
            ValueError: If it is neither.
        """
        if (match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text)) and Fraction(match[1]) <= 100:
            return cls(text, share=Fraction(match[1]) / 100)
        if re.fullmatch(r"\d+", text):
            return cls(text, count=int(text))
        raise ValueError(f"{text!r} is neither a share such as 5% nor a count such as 100.")

    def allowed(self, total: int) -> int:
        """Return how many of `total` originals may be rejected."""
        return int((self.share or 0) * total) if self.count is None else self.count

    def check(
        self, reasons: Counter[str], total: int, folder: Folder, shards: Iterable[Shard]
    ) -> None:
        """Stop if too many originals were rejected.

        Args:
            reasons: Originals rejected so far, by reason.
            total: Originals listed.
            shards: That are made so far.

        Raises:
            ValueError: If there are more than the budget permits.
        """
        if reasons.total() > self.allowed(total):
            raise ValueError(
                f"{reasons.total():,} of {total:,} originals cannot be used, and max_rejects="
                f"{self.text} permits {self.allowed(total):,}: {top(reasons)}.\n"
                f"{first_of_commonest(folder, shards, reasons)}"
                f"{folder}/rejects (parquet) lists them. Either increase --max-rejects: the "
                "command then resumes from the complete shards. Or repair the originals, and "
                "start again with --overwrite."
            )


def top(reasons: Counter[str]) -> str:
    """Return the most common reasons with their counts."""
    return ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common(5))


def reasons_of(shards: Iterable[Shard]) -> Counter[str]:
    """Count the rejected originals of shards by reason."""
    return sum((Counter(shard.reasons) for shard in shards), Counter[str]())


def first_of_commonest(folder: Folder, shards: Iterable[Shard], reasons: Counter[str]) -> str:
    """Return a line on the first reject of the commonest reason; a code alone mends nothing.

    Args:
        shards: That hold it.
        reasons: Rejected originals by reason; nothing is said if there are none.
    """
    for reason, _ in reasons.most_common(1):
        for shard in sorted(shards, key=lambda shard: shard.file):
            for row in rejects_of(folder, shard) if reason in shard.reasons else ():
                if (row["kind"], row["reason"]) == ("image", reason):
                    place = printable(row["location"] or row["id"], 120)
                    return f"The first {reason}: {place}: {printable(row['detail'])}\n"
    return ""


def rejects_of(folder: Folder, shard: Shard) -> list[dict[str, Any]]:
    """Read the rejected images and captions of a shard, as in `REJECT_SCHEMA`."""
    if shard.rejects_file is None:
        return []
    content = io.BytesIO(folder.read(shard.rejects_file))
    rows: list[dict[str, Any]] = pq.read_table(content).to_pylist()
    return rows
