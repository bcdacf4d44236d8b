"""The words a DAMSM text encoder knows, and how a caption becomes their numbers."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

END = "<end>"  # number 0: the end of a caption, and what fills up a batch
MAX_WORDS = 18  # of a caption; in AttnGAN (https://arxiv.org/abs/1711.10485) for birds
RULE = "runs of word characters, lower case, characters outside ASCII left out"


def split_words(caption: str) -> list[str]:
    r"""Split a caption as AttnGAN's data does: ``\w+`` of the lower-cased text, ASCII only."""
    words = re.findall(r"\w+", caption.lower())
    return [kept for word in words if (kept := word.encode("ascii", "ignore").decode())]


@dataclass(frozen=True)
class Vocabulary:
    """Known words by their numbers.

    Attributes:
        words: The word of each number; the first is `END`.
        max_words: Known words of a caption that are read, from its start. The published code
            draws a random subset of longer captions, anew each time; the start is always the same.

    Raises:
        ValueError: If words repeat or the first is not `END`.
    """

    words: tuple[str, ...]
    max_words: int = MAX_WORDS

    def __post_init__(self) -> None:
        if not self.words or self.words[0] != END or len(set(self.words)) != len(self.words):
            raise ValueError(f"a vocabulary must start with {END} and name each word once.")
        if self.max_words < 1:
            raise ValueError(f"max_words={self.max_words} must be at least 1, for example 18.")

    @classmethod
    def of(cls, captions: Iterable[str], max_words: int = MAX_WORDS) -> "Vocabulary":
        """Collect every word of some captions, in the order of the alphabet."""
        words = {word for caption in captions for word in split_words(caption)}
        return cls((END, *sorted(words)), max_words)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Number of each word that a caption can hold."""
        return {word: number for number, word in enumerate(self.words) if number}

    def read(self, caption: str) -> list[int]:
        """Return the numbers of a caption's words; unknown words are left out.

        Returns:
            At most `max_words` numbers, none if the caption holds no known word.
        """
        known = (self.numbers.get(word) for word in split_words(caption))
        return [number for number in known if number is not None][: self.max_words]
