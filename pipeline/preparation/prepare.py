"""Prepare originals: decode, crop, resize, encode captions, write shards.

1. The originals are listed, and the list is split into parts, one for each shard.
2. The shards are made, with Ray Data if that is quicker. Complete shards of the same are kept.
3. Duplicate images are removed.
4. The sentence transform is fitted to the training captions.
5. The manifest is written, and the dataset is complete.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.metadata import version

from pipeline.common.console import Progress, print_line
from pipeline.data.manifest import (
    SCHEMA_VERSION,
    Encoder,
    Manifest,
    Shard,
    read_manifest,
    write_transform,
)
from pipeline.preparation.config import PrepareConfig
from pipeline.preparation.duplicates import DropRepeats, find_repeats
from pipeline.preparation.fit_transform import fit_transform
from pipeline.preparation.listing import Listing, list_originals
from pipeline.preparation.output_folder import OutputFolder
from pipeline.preparation.reject_budget import Budget, first_of_commonest, reasons_of, top
from pipeline.preparation.shards import MakeShard, Recipe
from pipeline.preparation.sources.left_aside import describe
from pipeline.preparation.sources.source import SPLITS
from pipeline.preparation.text_encoders import EncoderRef, find_encoder
from pipeline.ray_cluster.connection import connect
from pipeline.ray_cluster.parallel_map import in_a_task, on_each
from pipeline.storage.folder import Folder
from pipeline.storage.run_log import keep_log
from ratgan.weights.saved_model import TEXT_ENCODER


def check_preparation(config: PrepareConfig) -> tuple[OutputFolder, EncoderRef, bytes | None]:
    """Check output folder and text encoder, before anything starts.

    Returns:
        The output folder, the place of the text encoder, and its content if it is one file.

    Raises:
        ValueError: If the output folder cannot be used.
        FileNotFoundError: If the text encoder does not exist.
    """
    output = OutputFolder(config.output, config.recorded_source(), config.recorded_options())
    if config.images_of is not None and Folder(config.images_of).location == str(output.folder):
        raise ValueError(
            f"images_of and output are both {output.folder}. Name another folder with --output; "
            "the old one can be deleted when the new one is complete."
        )
    place, encoder_file = find_encoder(config.encoder, config.encoder_path)
    output.refuse_strangers()
    if not config.overwrite:
        output.refuse_unlike(place)
    return output, place, encoder_file


def refuse_nothing(config: PrepareConfig, listing: Listing) -> None:
    """Raise ValueError if there are no originals."""
    if not listing.parts:
        raise ValueError(f"{config.source.name} lists no images. Options: {config.source!r}")


def prepare(config: PrepareConfig) -> Manifest:
    """Prepare a dataset, resume an unfinished one, or return the manifest of a complete one.

    Returns:
        The manifest.

    Raises:
        ValueError: If the originals or the output folder cannot be used, too many images are
            rejected, or another preparation writes into the folder.
    """
    output, place, encoder_file = check_preparation(config)
    if os.environ.get("RAY_ADDRESS"):
        connect(cpus=1)
    if output.is_complete() and not config.overwrite:
        listing = _list(config, None)
        found = output.same_originals(listing.fingerprint)
        if not config.repair:
            print_line(
                f"{output.folder} is prepared already: {found.written:,} images. --overwrite "
                "prepares it again, --repair checks all its files."
            )
            return found

    encoder = place.loaded()  # before anything is written, so that its errors come first
    output.folder.check_writable("output")
    with output.lock() as lock:
        keep_log(output.folder)
        if not config.overwrite:
            output.refuse_unlike(place)  # another preparation may have started before the lock
        manifest = _prepare(
            config, output, place, encoder_file, encoder.sha256, encoder.dim, lock.check
        )
        lock.check()
        output.finish(manifest)
    _tell(output.folder, manifest)
    return manifest


def _prepare(
    config: PrepareConfig,
    output: OutputFolder,
    place: EncoderRef,
    encoder_file: bytes | None,
    encoder_sha256: str,
    encoder_dim: int,
    check_owner: Callable[[], None],
) -> Manifest:
    # Errors of the user come before anything is written, and before a dataset is deleted.
    folder = output.folder
    listing = _list(config, folder)
    refuse_nothing(config, listing)
    images_of = _images_of(config, listing)
    if config.overwrite:
        output.clear()
    output.begin()
    if encoder_file is not None:
        folder.write(TEXT_ENCODER, encoder_file)
        place = replace(place, location=f"{folder}/{TEXT_ENCODER}")
    print_line(f"preparing {listing.rows:,} records of {config.source.name} into {folder}")
    if listing.left_aside:
        print_line(f"left aside: {describe(listing.left_aside)}")
    recipe = Recipe(
        source=config.source,
        folder=folder,
        encoder=place,
        cache_size=config.cache_size,
        quality=config.quality,
        row_group_rows=config.row_group_rows,
        digest=_recipe_digest(config, encoder_sha256),
        fingerprint=listing.fingerprint,
        images_of=images_of,
    )
    if found := output.trust_manifest(listing, recipe.digest):
        # A repaired dataset has the same manifest: its digest says to trainings which one it is.
        listing = replace(listing, left_aside=found.left_aside)
    shards = _make_shards(config, listing, recipe, check_owner)
    if config.duplicates == "reject":
        shards = _drop_repeats(config, listing, recipe, shards)
    encoder = Encoder(
        name=place.name,
        sha256=encoder_sha256,
        dim=encoder_dim,
        file=TEXT_ENCODER if encoder_file is not None else None,
        location=place.location if encoder_file is None else None,
    )
    return _manifest_of(config, folder, encoder, listing, shards)


def _manifest_of(
    config: PrepareConfig,
    folder: Folder,
    encoder: Encoder,
    listing: Listing,
    shards: dict[str, Shard],
) -> Manifest:
    """Fit the sentence transform, and describe the finished shards.

    Raises:
        ValueError: If no training image is left.
    """
    splits = {
        split: tuple(shards[part.shard] for part in listing.parts if part.split == split)
        for split in SPLITS
    }
    reasons = reasons_of(shards.values())
    dropped = sum((Counter(shard.dropped) for shard in shards.values()), Counter[str]())
    if not any(shard.rows for shard in splits["train"]):
        first = first_of_commonest(folder, shards.values(), reasons)
        raise ValueError(
            f"no training image is left of {listing.rows:,} records. Rejected: "
            f"{top(reasons) or 'none'}.\n{first}".rstrip()
        )
    transform = fit_transform(
        folder, splits["train"], config.chosen_transform, encoder.dim, config.sentence_dim
    )
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        source=config.recorded_source(),
        fingerprint=listing.fingerprint,
        options=config.recorded_options(),
        cache_size=config.cache_size,
        mirrors=config.source.mirrors,
        encoder=encoder,
        transform=write_transform(folder, transform),
        overlapping_splits=config.source.overlapping,
        splits=splits,
        seen=listing.rows,
        written=sum(shard.rows for shard in shards.values()),
        rejected=reasons.total(),
        reasons=dict(sorted(reasons.items())),
        captions=sum(shard.captions for shard in shards.values()),
        dropped_captions=dict(sorted(dropped.items())),
        left_aside=listing.left_aside,
    )
    if manifest.seen != manifest.written + manifest.rejected:
        raise RuntimeError(
            f"{manifest.seen} rows seen, {manifest.written} written and {manifest.rejected} "
            "rejected: this is a bug in ratgan."
        )
    return manifest


def _list(config: PrepareConfig, folder: Folder | None) -> Listing:
    """List the originals; in a cluster, list and joins do not pass through the driver."""
    return in_a_task(list_originals, config.source, config.shard_rows, config.limit, folder)


def _recipe_digest(config: PrepareConfig, encoder_sha256: str) -> str:
    decides = {
        "schema": SCHEMA_VERSION,
        "source": config.recorded_source(),
        "images": config.image_options(),
        "encoder": [config.encoder, encoder_sha256],
        # Another version may decode, encode or write differently.
        "versions": {name: version(name) for name in ("pillow", "pyarrow", "torch")},
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _images_of(config: PrepareConfig, listing: Listing) -> Folder | None:
    """Return the dataset whose images are copied; raises ValueError if it has other images."""
    if config.images_of is None:
        return None
    folder = Folder(config.images_of)
    found, _ = read_manifest(folder)
    has = {"source": found.source, **found.options}
    wanted = {"source": config.recorded_source(), **config.image_options()}
    unlike = [
        f"{name}: {has.get(name)} there, {value} here"
        for name, value in wanted.items()
        if has.get(name) != value
    ]
    if not unlike and found.fingerprint != listing.fingerprint:
        unlike = ["its originals were different"]
    if unlike:
        raise ValueError(
            f"images_of={folder} has other images ({'; '.join(unlike)}). Use the same options "
            "as for that dataset, or omit --images-of."
        )
    return folder


def _make_shards(
    config: PrepareConfig, listing: Listing, recipe: Recipe, check_owner: Callable[[], None]
) -> dict[str, Shard]:
    """Make the missing shards, and check the budget of rejects."""
    progress = Progress("prepared", listing.rows, "images")
    budget, reasons = Budget.parse(config.max_rejects), Counter[str]()
    shards: dict[str, Shard] = {}
    kept = 0
    for row in on_each(MakeShard(recipe), [asdict(part) for part in listing.parts]):
        shard = Shard.model_validate_json(row["shard"])
        shards[shard.file] = shard
        kept += row["kept"]
        check_owner()  # after a suspension, another process may own the folder
        _check_visible(recipe.folder, shard)
        reasons.update(shard.reasons)
        budget.check(reasons, listing.rows, recipe.folder, shards.values())
        progress.add(shard.seen, f"rejected {reasons.total():,}" if reasons else "")
    if kept:
        print_line(f"{kept:,} of {len(listing.parts):,} shards were complete and are kept")
    return shards


def _check_visible(folder: Folder, shard: Shard) -> None:
    """Check that a shard written on another machine can be read on this one."""
    if folder.size(shard.file) != shard.bytes:
        raise ValueError(
            f"{folder}/{shard.file} was written on another machine and cannot be read on this one. "
            "Use a bucket for --output, or a folder that all machines share."
        )


def _drop_repeats(
    config: PrepareConfig, listing: Listing, recipe: Recipe, shards: dict[str, Shard]
) -> dict[str, Shard]:
    """Remove duplicate images."""
    across = not config.source.overlapping
    repeats = in_a_task(find_repeats, recipe.folder, listing.parts, across=across)
    if not repeats:
        return shards
    shards = dict(shards)
    for row in on_each(DropRepeats(recipe), [each.as_item() for each in repeats]):
        shard = Shard.model_validate_json(row["shard"])
        shards[shard.file] = shard
    reasons = reasons_of(shards.values())
    budget = Budget.parse(config.max_rejects)
    budget.check(reasons, listing.rows, recipe.folder, shards.values())
    return shards


def _tell(folder: Folder, manifest: Manifest) -> None:
    reasons, dropped = Counter(manifest.reasons), Counter(manifest.dropped_captions)
    size = sum(shard.bytes for shard in manifest.shards) / 2**20
    print_line(
        f"seen {manifest.seen:,} = written {manifest.written:,} + rejected {manifest.rejected:,}"
        f"{f' ({top(reasons)})' if reasons else ''}; left aside: "
        f"{describe(manifest.left_aside)}\n"
        f"train {manifest.rows('train'):,}, validation {manifest.rows('validation'):,}, "
        f"captions {manifest.captions:,} (dropped {dropped.total():,}), "
        f"sentence vectors {manifest.transform.kind} to {manifest.transform.dim}\n"
        f"{size:,.1f} MiB at {folder}"
    )
    if manifest.overlapping_splits:
        print_line(
            "note: the validation images are training images, as requested; scores on them show "
            "memorization"
        )
