"""The split in AttnGAN's layout: train/filenames.pickle and test/filenames.pickle."""

from pipeline.preparation.sources.join_on_disk import composed
from pipeline.storage.folder import Folder
from ratgan.weights.restricted_pickle import load_foreign_pickle

PICKLES = {"train": "train/filenames.pickle", "validation": "test/filenames.pickle"}


def pickled_split(folder: Folder) -> dict[str, set[str]]:
    """Read the file lists of AttnGAN's layout, if they exist.

    Returns:
        Names of the images of each split, without .jpg; empty if there are no lists.

    Raises:
        ValueError: If only one list exists, one is damaged, or an image is in both.
    """
    there = {split: file for split, file in PICKLES.items() if folder.exists(file)}
    if not there:
        return {}
    if len(there) < len(PICKLES):
        (missing,) = set(PICKLES.values()) - set(there.values())
        raise ValueError(
            f"{folder}/{missing} does not exist, and {', '.join(there.values())} does. A split "
            "needs both: add it, or remove the other."
        )
    splits = {split: set(_names(folder, file)) for split, file in PICKLES.items()}
    if both := splits["train"] & splits["validation"]:
        raise ValueError(
            f"{folder}: {len(both):,} images are in both filenames.pickle, for example "
            f"{min(both)!r}. An image must be in one split."
        )
    return splits


def _names(folder: Folder, file: str) -> list[str]:
    names = load_foreign_pickle(folder.read(file), f"{folder}/{file}")
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(
            f"{folder}/{file} is not a list of file names. It must hold a list of texts such as "
            "'001.Black_footed_Albatross/Black_Footed_Albatross_0046_18'."
        )
    return [composed(name.removesuffix(".jpg")) for name in names]
