"""Stop a preparation when more originals are rejected than allowed."""

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

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

    def check(self, reasons: Counter[str], total: int, folder: Folder) -> None:
        """Stop if too many originals were rejected.

        Args:
            reasons: Originals rejected so far, by reason.
            total: Originals listed.

        Raises:
            ValueError: If there are more than the budget permits.
        """
        if reasons.total() > self.allowed(total):
            raise ValueError(
                f"{reasons.total():,} of {total:,} originals cannot be used, and max_rejects="
                f"{self.text} permits {self.allowed(total):,}: {top(reasons)}.\n"
                f"{folder}/rejects (parquet) lists them. Either increase --max-rejects: the "
                "command then resumes from the complete shards. Or repair the originals, and "
                "start again with --overwrite."
            )


def top(reasons: Counter[str]) -> str:
    """Return the most common reasons with their counts."""
    return ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common(5))
