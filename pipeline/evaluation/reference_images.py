"""The real images of an evaluation: of a prepared dataset, a folder, or published statistics.

Features of images are kept in a cache under a name that follows from images, extractor and sizes.
"""

import hashlib
import io
import math
import zipfile
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.data.dataset import PreparedDataset
from pipeline.evaluation.image_sets import FolderImages, Images, PreparedImages, StoredRows
from pipeline.evaluation.protocols import Protocol
from pipeline.preparation.decoding.images import IMAGES as ENDINGS
from pipeline.preparation.sources.source import SPLITS
from pipeline.storage.folder import Folder, absolute
from ratgan.file_kind import HEAD, refusal
from ratgan.metrics.statistics import FeatureStatistics

# Published files of statistics hold mean and covariance, and not from how many images they were
# taken; a Fréchet distance needs no more.
UNKNOWN_COUNT = 2**31
MAX_ARRAY = 2**28  # bytes of unpacked statistics: 5,792 features squared, in float64


@dataclass(frozen=True)
class RealImages:
    """What generated images are compared with.

    Attributes:
        digest: Of the images themselves.
        count: How many there are; 0 if that is not known.
        images: They; None where there are statistics only.
        statistics: As others took them; None where there are images.
    """

    digest: str
    count: int
    images: Images | None = None
    statistics: FeatureStatistics | None = None


def find_reference(
    protocol: Protocol,
    dataset: PreparedDataset,
    *,
    image_size: int,
    batch_size: int,
    folder: str | None,
    statistics: str | None,
) -> RealImages:
    """Find the real images that a protocol compares with.

    Args:
        protocol: Says which kind.
        dataset: Prepared one.
        image_size: Of the generated images in pixels.
        batch_size: Images read at once.
        folder: Where original images are.
        statistics: File of a published mean and covariance.

    Raises:
        ValueError: If they are not named, or what is named has no use.
        FileNotFoundError: If they are not there.
    """
    wanted = {"folder": folder, "statistics": statistics}
    for kind, option in (("folder", "reference_images"), ("statistics", "reference_statistics")):
        if wanted[kind] is not None and protocol.reference != kind:
            raise ValueError(
                f"protocol {protocol.name} compares with {_said(protocol)}: {option} has no use."
            )
    if protocol.reference == "folder":
        if folder is None:
            raise ValueError(
                f"protocol {protocol.name} compares with original images: name their folder with "
                "--reference-images, for example data/CUB_200_2011/images. To compare with "
                "prepared images in place of them, use --reference validation."
            )
        return _of_folder(folder)
    if protocol.reference == "statistics":
        if statistics is None:
            raise ValueError(
                f"protocol {protocol.name} compares with published statistics: name the file (.npz "
                "with mu and sigma) with --reference-statistics. To compare with prepared "
                "images in place of them, use --reference validation."
            )
        return _of_statistics(statistics)
    splits = SPLITS if protocol.reference == "all" else (protocol.reference,)
    rows = sum(dataset.manifest.rows(split) for split in splits)
    if not rows:
        raise ValueError(f"{dataset.folder} has no {protocol.reference} images to compare with.")
    crop = image_size if protocol.reference_crop == "centre" else None
    images = PreparedImages(dataset.folder.location, tuple(splits), rows, crop, batch_size)
    return RealImages(column_digest(dataset, splits, "digest"), rows, images)


def column_digest(dataset: PreparedDataset, splits: tuple[str, ...], column: str) -> str:
    """Hash a column of splits: two datasets of the same images have the same digests of them."""
    hashed = hashlib.sha256()
    for unit in StoredRows(dataset, splits, [column]).units:
        for value in dataset.read(unit, [column])[column].to_pylist():
            hashed.update(value if isinstance(value, bytes) else repr(value).encode())
    return hashed.hexdigest()


def _said(protocol: Protocol) -> str:
    names = {"folder": "a folder of originals", "statistics": "published statistics"}
    return names.get(protocol.reference, f"{protocol.reference} images of the prepared dataset")


def _of_folder(location: str) -> RealImages:
    folder = Folder(absolute(location, "reference_images"))
    found = sorted(
        (name, size) for name, size in folder.walk(links=True) if name.lower().endswith(ENDINGS)
    )
    if not found:
        raise FileNotFoundError(
            f"reference_images={location} holds no images ({', '.join(ENDINGS)})."
        )
    digest = hashlib.sha256(repr(found).encode()).hexdigest()
    return RealImages(digest, len(found), FolderImages(folder, tuple(name for name, _ in found)))


def _of_statistics(location: str) -> RealImages:
    place, _, name = absolute(location, "reference_statistics").rpartition("/")
    if not Folder(place).exists(name):
        raise FileNotFoundError(f"reference_statistics={location} does not exist.")
    content = Folder(place).read(name)
    said = f"reference_statistics={location}"
    if not content.startswith(b"PK") and (problem := refusal(content[:HEAD], said, "statistics")):
        raise ValueError(problem)
    try:
        _check_npz(content)
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            mean, covariance = (
                torch.from_numpy(np.asarray(arrays[key], dtype=np.float64))
                for key in ("mu", "sigma")
            )
        if covariance.shape != (len(mean), len(mean)):
            raise ValueError(f"mu of {len(mean)} numbers, sigma of {list(covariance.shape)}")
    except Exception as error:  # numpy passes on whatever a foreign file raises
        objects = "Python objects, which are not read" if "allow_pickle" in str(error) else error
        raise ValueError(f"{said} does not hold mu and sigma: {objects}") from error
    statistics = FeatureStatistics.of_moments(UNKNOWN_COUNT, mean, covariance)
    return RealImages(hashlib.sha256(content).hexdigest(), 0, None, statistics)


def _check_npz(content: bytes) -> None:
    """Refuse statistics that would take too much memory when they are unpacked.

    Raises:
        ValueError: If they would. An array is not looked at before its shape is known to be of the
            bytes that are there: NumPy takes the memory for what the header says.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for key in ("mu.npy", "sigma.npy"):
            record = archive.getinfo(key)
            if record.file_size > MAX_ARRAY:
                raise ValueError(
                    f"{key} has {record.file_size:,} bytes, at most {MAX_ARRAY:,} are taken"
                )
            with archive.open(record) as stream:
                read_header = (
                    np.lib.format.read_array_header_1_0
                    if np.lib.format.read_magic(stream) == (1, 0)
                    else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = read_header(stream)
            if math.prod(shape) * dtype.itemsize > record.file_size:
                raise ValueError(
                    f"{key} says {list(shape)} numbers, and has {record.file_size:,} bytes"
                )
