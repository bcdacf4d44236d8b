"""Dry run of a preparation: list, check, and time a few originals."""

import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from typing import Any

import torch

from pipeline.common.console import DryRunReport, duration
from pipeline.data.manifest import Shard, read_manifest
from pipeline.preparation.config import PrepareConfig
from pipeline.preparation.listing import Listing, list_originals
from pipeline.preparation.prepare import check_preparation, refuse_nothing
from pipeline.preparation.reject_budget import first_of_commonest, reasons_of, top
from pipeline.preparation.shards import MakeShard, Recipe
from pipeline.preparation.sources.left_aside import describe
from pipeline.preparation.sources.source import Record, Source
from pipeline.preparation.text_encoders import EncoderRef
from pipeline.ray_cluster.connection import find_resources
from pipeline.ray_cluster.parallel_map import estimate
from pipeline.storage.disk_space import free_bytes, leaving_nothing, readable
from pipeline.storage.folder import Folder

SAMPLE = 64  # originals that are prepared
PATIENCE_S = 30.0  # limit for listing the originals


def plan_preparation(config: PrepareConfig) -> None:
    """Print what a preparation would do; raises the errors of a preparation."""
    with leaving_nothing(Folder(config.output)):
        output, place, _ = check_preparation(config)
        output.folder.check_writable("output")
        report = DryRunReport()
        encoder = place.loaded()
        report.line("encoder", f"{place.name}, vectors of {encoder.dim} numbers, loads")
        listing = _list(config)
        if listing is None:
            report.note(
                f"listing the originals took more than {PATIENCE_S:.0f} s, so their number and the "
                "time for them are unknown."
            )
        else:
            refuse_nothing(config, listing)
            report.line(
                "originals",
                f"{listing.rows:,} of {config.source.name}, for {len(listing.parts):,} files",
            )
            if listing.left_aside:
                report.line("aside", describe(listing.left_aside))
        if output.is_complete() and not config.overwrite:
            if listing is not None:
                output.same_originals(listing.fingerprint)
            found, _ = read_manifest(output.folder)
            todo = "every file would be checked" if config.repair else "nothing is left to do"
            report.line("output", f"{output.folder} is complete, {found.written:,} images; {todo}")
            report.end()
            return
        _try_some(config, place, listing, report)
        report.end()


def _try_some(
    config: PrepareConfig, place: EncoderRef, listing: Listing | None, report: DryRunReport
) -> None:
    """Prepare a few originals in a temporary folder, and print an estimate for all of them."""
    shards, first, seconds = _prepared(config, place)
    seen, rows = sum(shard.seen for shard in shards), sum(shard.rows for shard in shards)
    reasons = reasons_of(shards)
    report.line(
        "sample",
        f"the first {seen} took {seconds:.1f} s on one CPU; {rows} can be used"
        + (f", rejected: {top(reasons)}" if reasons else ""),
    )
    if reasons:
        report.note(
            f"{reasons.total()} of the first {seen} originals would be rejected; preparation stops "
            f"at more than --max-rejects {config.max_rejects} of all. {first}".rstrip()
        )
    if listing is None or not rows:
        return
    has = find_resources()
    size = round(sum(shard.bytes for shard in shards) / rows * listing.rows)
    free = free_bytes(Folder(config.output))
    report.line(
        "output",
        f"{config.output}: about {readable(size)}"
        + ("" if free is None else f", {readable(free)} are free"),
    )
    if free is not None and free < size:
        report.note("there is not enough space for it. Free some, or name another --output.")
    count, cpus = len(listing.parts), max(has.cpus, 1)
    each = listing.rows / seen * seconds / count
    if has.cluster:
        expected, tasks = each * -(-count // cpus), min(cpus, count)
    else:
        expected, tasks = estimate(each, count, cpus)
    report.line(
        "ETA",
        f"{duration(expected)} with {tasks} of {has.cpus} CPUs "
        f"{'in the cluster' if has.cluster else 'here'}; files that are complete are kept",
    )
    if config.images_of is not None:
        report.note("with --images-of it is faster: the images are copied.")


def _prepared(config: PrepareConfig, place: EncoderRef) -> tuple[list[Shard], str, float]:
    """Make shards of the first originals in a temporary folder, with one thread.

    Returns:
        The shards, a line on the first reject if there is one, and seconds.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as Ray's tasks do
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Folder(name)
            first = list_originals(_First(source=config.source), SAMPLE, None, folder)
            make = MakeShard(
                Recipe(
                    source=config.source,
                    folder=folder,
                    encoder=place,
                    cache_size=config.cache_size,
                    quality=config.quality,
                    row_group_rows=config.row_group_rows,
                    digest="",
                    fingerprint=first.fingerprint,
                )
            )
            started = time.monotonic()
            made = [Shard.model_validate_json(make(asdict(part))["shard"]) for part in first.parts]
            seconds = time.monotonic() - started
            return made, first_of_commonest(folder, made, reasons_of(made)), seconds
    finally:
        torch.set_num_threads(threads)


def _list(config: PrepareConfig) -> Listing | None:
    """List the originals without storing the list; None if that takes too long."""
    found: list[Listing] = []
    failed: list[Exception] = []

    def work() -> None:
        try:
            found.append(list_originals(config.source, config.shard_rows, config.limit, None))
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=work, name="list-originals", daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    if failed:
        raise failed[0]
    return found[0] if found else None


class _First(Source):
    """The first records of a source."""

    source: Any

    def records(self) -> Iterator[Record]:
        """List only the first records."""
        return islice(self.source.records(), SAMPLE)

    def read_image(self, record: Record) -> bytes:
        """Read from the source."""
        content: bytes = self.source.read_image(record)
        return content
