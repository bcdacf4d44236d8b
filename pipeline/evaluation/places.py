"""Networks that evaluation needs, by name and place, as every process finds them."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.storage import Folder, absolute
from ratgan.metrics.extractors import load_extractor
from ratgan.metrics.features import Extractor
from ratgan.metrics.pairs import IMAGE_FILE, TEXT_FILE, Pair, load_pair
from ratgan.metrics.resizing import Resize

ENDINGS = (".safetensors", ".json", ".txt", ".model")  # of what transformers saves; no pickle


@dataclass(frozen=True)
class ExtractorPlace:
    """An extractor of features; crosses processes freely.

    Attributes:
        name: Key of `EXTRACTORS`.
        location: Path or address of its weights, as `absolute` gives it.
        rule: How images are resized.
        sha256: That its weights must have, or the beginning of it.
    """

    name: str
    location: str | None
    rule: Resize
    sha256: str | None = None

    def loaded(self, device: str | torch.device = "cpu") -> Extractor:
        """Load it; raises as `load_extractor` does."""
        with local_copy(self.location) as path:
            return load_extractor(
                self.name, path, rule=self.rule, sha256=self.sha256, device=device
            )


@dataclass(frozen=True)
class PairPlace:
    """A pair of encoders; crosses processes freely.

    Attributes:
        name: Key of `PAIRS`.
        location: Path or address of its folder, as `absolute` gives it.
        inception: Path or address of the weights its image side stands on, if it needs them.
    """

    name: str
    location: str
    inception: str | None = None

    def loaded(self, device: str | torch.device = "cpu") -> Pair:
        """Load it; raises as `load_pair` does."""
        with local_copy(self.location) as folder, local_copy(self.inception) as inception:
            return load_pair(self.name, str(folder), inception_weights=inception, device=device)


def find_pair(name: str, location: str, inception: str | None) -> PairPlace:
    """Find a pair where a user says it is.

    Args:
        name: Key of `PAIRS`.
        location: ``damsm``: the run of jobs/pretrain_damsm.py, of which the newest checkpoint is
            taken, or any folder with both files. ``clip``: a folder.
        inception: Weights its image side stands on.

    Raises:
        FileNotFoundError: If there is none.
    """
    folder = Folder(absolute(location, "pair"))
    weights = None if inception is None else absolute(inception, "pair_inception_weights")
    if name == "damsm" and not folder.exists(IMAGE_FILE):
        from pipeline.checkpointing import newest_checkpoint

        found = newest_checkpoint(folder / "checkpoints")
        if found is None or not found[0].exists(IMAGE_FILE):
            raise FileNotFoundError(
                f"pair={location} holds no {TEXT_FILE} with its {IMAGE_FILE}: name the run of "
                "jobs/pretrain_damsm.py, outputs/NAME, or one of its checkpoints."
            )
        folder = found[0]
    return PairPlace(name, folder.location, weights)


@contextmanager
def local_copy(location: str | None) -> Iterator[str | None]:
    """Give a path on this machine for a file or folder that may be in a bucket; None for None."""
    if location is None or "://" not in location:
        yield location
        return
    place, _, name = location.rpartition("/")
    with tempfile.TemporaryDirectory() as copy:
        target = Path(copy) / name
        folder = Folder(location)
        names = [each for each in folder.names() if each.endswith(ENDINGS)]
        if names:
            target.mkdir()
            for each in names:
                (target / each).write_bytes(folder.read(each))
        elif Folder(place).exists(name):
            target.write_bytes(Folder(place).read(name))
        else:
            raise FileNotFoundError(f"{location} does not exist.")
        yield str(target)
