"""Stop a preparation when more originals are rejected than allowed."""

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

from pipeline.storage.folder import Folder


@dataclass(frozen=True)
class Budget:
    """The most originals that may be left out.

    Attributes:
        text: As a user gives it.
        share: Of all originals, in [0, 1]; or
        count: So many.
    """

    text: str
    share: Fraction | None = None
    count: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read `5%` or `100`.

        Raises:
            ValueError: If it is neither.
        """
        if (match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text)) and Fraction(match[1]) <= 100:
            return cls(text, share=Fraction(match[1]) / 100)
        if re.fullmatch(r"\d+", text):
            return cls(text, count=int(text))
        raise ValueError(f"{text!r} is neither a share such as 5% nor a count such as 100.")

    def allowed(self, total: int) -> int:
        """Return how many of `total` originals may be left out."""
        return int((self.share or 0) * total) if self.count is None else self.count

    def check(self, reasons: Counter[str], total: int, folder: Folder) -> None:
        """Stop if too many were left out.

        Args:
            reasons: Originals left out so far, by reason.
            total: Originals listed.
            folder: The dataset's.

        Raises:
            ValueError: If there are more than the budget allows.
        """
        if reasons.total() > self.allowed(total):
            raise ValueError(
                f"{reasons.total():,} of {total:,} originals cannot be used, and max_rejects="
                f"{self.text} allows {self.allowed(total):,}: {top(reasons)}.\n"
                f"{folder}/rejects (parquet) lists them. Allow more with --max-rejects: the same "
                "command goes on from the shards that are complete. Or mend the originals, and "
                "begin anew with --overwrite."
            )


def top(reasons: Counter[str]) -> str:
    """Name the commonest reasons with their counts."""
    return ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common(5))
