"""The output folder of a preparation: permitted content, complete shards, and its lock.

With a manifest it is a dataset. Without one, `progress/` has the finished shards and the options;
only a preparation with the same options resumes it.
"""

import re
from collections.abc import Iterable
from typing import Any

from pipeline.data.manifest import MANIFEST, PROGRESS, REJECTS, TRANSFORM, Manifest, read_manifest
from pipeline.preparation.listing import LIST, Listing
from pipeline.preparation.shards import commit
from pipeline.preparation.sources.source import SPLITS
from pipeline.preparation.text_encoders import EncoderRef
from pipeline.storage.folder import Folder
from pipeline.storage.lock import LOCK_NAME, Lock
from pipeline.storage.run_log import LOG
from ratgan.weights.saved_model import TEXT_ENCODER

PLAN = f"{PROGRESS}/options.json"
TEMPORARY = r"(\..*\.tmp)?"
ABANDONED = re.compile(
    rf"({re.escape(MANIFEST)}|{re.escape(TRANSFORM)}|{re.escape(TEXT_ENCODER)})\..*\.tmp|\.probe-.*"
)
OURS = {  # patterns of the names that preparation writes, by folder
    "": re.compile(
        rf"({re.escape(MANIFEST)}|{re.escape(TRANSFORM)}|{re.escape(TEXT_ENCODER)}"
        rf"|rejects\.parquet|{re.escape(LOG)}){TEMPORARY}|{REJECTS}|{PROGRESS}|{'|'.join(SPLITS)}|{LOCK_NAME.pattern}(\..*)?|\.probe-.*"
    ),
    **{split: re.compile(rf"part-\d{{5,}}\.parquet{TEMPORARY}") for split in SPLITS},
    REJECTS: re.compile(rf"({'|'.join(SPLITS)})-\d{{5,}}\.parquet{TEMPORARY}"),
}

Values = dict[str, Any]


class OutputFolder:
    """Where a dataset is prepared.

    Args:
        source: Name and options of the source.
        options: Options of the preparation that decide the dataset's content.
    """

    def __init__(self, location: str, source: Values, options: Values) -> None:
        self.folder = Folder(location)
        self.source, self.options = source, options

    def lock(self) -> Lock:
        """Return the lock that excludes other preparations."""
        return Lock(self.folder, "prepare")

    def is_complete(self) -> bool:
        """Return whether the folder has a complete dataset."""
        return self.folder.exists(MANIFEST)

    def refuse_strangers(self) -> None:
        """Refuse a folder with files that preparation does not write.

        Raises:
            ValueError: If there are any: `--overwrite` must never delete somebody's originals.
        """
        if self.folder.is_file():
            raise ValueError(f"{self.folder} is a file. Name a new or empty folder with --output.")
        strange = [
            name
            for place, ours in OURS.items()
            for name in (self.folder / place if place else self.folder).names()
            if not ours.fullmatch(name)
        ]
        if strange:
            raise ValueError(
                f"{self.folder} has files that do not belong to a prepared dataset "
                f"({', '.join(strange[:3])}). Name a new or empty folder with --output."
            )

    def refuse_unlike(self, encoder: EncoderRef) -> None:
        """Refuse a complete or unfinished dataset that was prepared differently.

        Raises:
            ValueError: If source, options or text encoder differ.
        """
        if self.is_complete():
            found, _ = read_manifest(self.folder)
            unlike = _differences(found.source, found.options, self.source, self.options)
            place = found.encoder.location, found.encoder.sha256
            same = (
                place[0] == encoder.location
                if encoder.sha256 is None
                else (place[1] == encoder.sha256)
            )
            unlike += [] if same else ["with another text encoder"]
            what, way = "a dataset", "--images-of keeps the images of that one"
        elif self.folder.exists(PLAN):
            plan = self.folder.read_json(PLAN)
            unlike = _differences(plan["source"], plan["options"], self.source, self.options)
            what, way = "an unfinished dataset", "finish that one with its own options"
        else:
            return
        if unlike:
            raise ValueError(
                f"{self.folder} has {what} prepared differently ({'; '.join(unlike)}). Name "
                f"another folder with --output ({way}), or delete it with --overwrite."
            )

    def same_originals(self, fingerprint: str) -> Manifest:
        """Return the manifest of the existing dataset.

        Raises:
            ValueError: If it was prepared from other originals.
        """
        found, _ = read_manifest(self.folder)
        if found.fingerprint != fingerprint:
            raise ValueError(
                f"{self.folder} has a dataset prepared differently (the originals have changed). "
                "Name another folder with --output, or delete it with --overwrite."
            )
        return found

    def clear(self) -> None:
        """Delete the old dataset, the manifest first, so that nobody reads a partial dataset.

        The lists of originals stay: they belong to the new dataset.
        """
        names = [name for name in self.folder.names() if name != LOG and not LOCK_NAME.match(name)]
        for name in sorted(names, key=lambda name: name != MANIFEST):
            if name != PROGRESS:
                self._delete(name)
        for name in (self.folder / PROGRESS).names():
            if not name.endswith(LIST):
                self.folder.delete(f"{PROGRESS}/{name}")

    def begin(self) -> None:
        """Store the options of this preparation."""
        self.folder.write_json(PLAN, {"source": self.source, "options": self.options})

    def trust_manifest(self, listing: Listing, recipe: str) -> Manifest | None:
        """Mark the shards of a complete dataset as finished; `finished` checks their hashes.

        Returns:
            The manifest of the complete dataset, if there is one.

        Raises:
            ValueError: If it was prepared from other originals.
        """
        if not self.is_complete():
            return None
        found = self.same_originals(listing.fingerprint)
        shards = {shard.file: shard for shard in found.shards}
        for part in listing.parts:
            if part.shard in shards:
                commit(self.folder, part, recipe, listing.fingerprint, shards[part.shard])
        return found

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest, and delete all files that do not belong to the dataset."""
        unknown = {"left_aside"} if manifest.left_aside is None else None
        self.folder.write_json(MANIFEST, manifest.model_dump(mode="json", exclude=unknown))
        kept = {shard.file for shard in manifest.shards}
        kept |= {shard.rejects_file for shard in manifest.shards if shard.rejects_file}
        for place in (*SPLITS, REJECTS):
            for name in (self.folder / place).names():
                if f"{place}/{name}" not in kept:
                    self.folder.delete(f"{place}/{name}")
        for name in self.folder.names():
            if ABANDONED.fullmatch(name):  # by a process that was killed during a write
                self.folder.delete(name)
        self._delete(PROGRESS)

    def _delete(self, name: str) -> None:
        if name in (PROGRESS, REJECTS, *SPLITS):
            (self.folder / name).remove()
        else:
            self.folder.delete(name)


def _differences(
    source: Values, options: Values, source_now: Values, options_now: Values
) -> list[str]:
    return [
        f"{group}.{name}: {old.get(name)} → {now.get(name)}"
        for group, old, now in (("source", source, source_now), ("options", options, options_now))
        for name in _names(old, now)
        if old.get(name) != now.get(name)
    ]


def _names(old: Values, now: Values) -> Iterable[str]:
    return sorted(old.keys() | now.keys())
