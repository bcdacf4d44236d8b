"""Features of the chunks that are not there yet, made by actors of Ray Data.

An actor loads the networks once and takes one chunk after another, of whichever set. It computes
with one thread, or on its GPU without shortcuts, so that a chunk is the same whoever makes it.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import ray
import torch
from torch import Tensor

from pipeline.evaluation.feature_sets import (
    CLASSES,
    LOGITS,
    PAIR_CAPTIONS,
    PAIR_IMAGES,
    SECONDS,
    VECTORS,
    FeatureSet,
)
from pipeline.evaluation.images import OpenImages
from pipeline.evaluation.places import ExtractorPlace, PairPlace
from pipeline.progress import Progress

RETRIES = 3  # of a chunk whose actor was killed, for want of memory for example


class Looker:
    """Makes chunks, in a process of its own.

    Args:
        sets: All sets.
        extractor: Where it is.
        pair: Where it is, if there is one.
    """

    def __init__(
        self, sets: Sequence[FeatureSet], extractor: ExtractorPlace, pair: PairPlace | None
    ) -> None:
        torch.set_num_threads(1)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.sets = sets
        self.extractor = extractor.loaded(self.device)
        self.pair = None if pair is None else pair.loaded(self.device)
        self.open: dict[int, OpenImages] = {}

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Make a chunk and keep it; `item` names set and chunk."""
        number, chunk = item["set"], item["chunk"]
        features = self.sets[number]
        if number not in self.open:
            self.open[number] = features.images.opened(self.device)
        tensors = self._look(features, chunk, self.open[number])
        features.write(chunk, tensors)
        return {"set": number, "images": len(tensors[VECTORS])}

    def _look(self, features: FeatureSet, chunk: int, images: OpenImages) -> dict[str, Tensor]:
        found: dict[str, list[Tensor]] = {}
        seconds = [0.0, 0.0]
        batches = images.batches(features.numbers(chunk))
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            self._wait()
            drawn = time.perf_counter()
            seconds[0] += drawn - started
            if batch is None:
                break
            vectors, logits = self.extractor(batch.images)
            found.setdefault(VECTORS, []).append(vectors.cpu())
            if features.logits and logits is not None:
                found.setdefault(LOGITS, []).append(logits.cpu())
            if features.pair and self.pair is not None and batch.classes is not None:
                found.setdefault(PAIR_IMAGES, []).append(self.pair.of_images(batch.images))
                found.setdefault(PAIR_CAPTIONS, []).append(self.pair.of_captions(batch.captions))
                found.setdefault(CLASSES, []).append(batch.classes)
            seconds[1] += time.perf_counter() - drawn
        together = {name: torch.cat(parts) for name, parts in found.items()}
        return together | {SECONDS: torch.tensor(seconds, dtype=torch.float64)}

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()  # or what draws would count for what looks


def look(
    sets: Sequence[FeatureSet],
    missing: Sequence[Sequence[int]],
    extractor: ExtractorPlace,
    pair: PairPlace | None,
    *,
    actors: int,
    gpus: bool,
) -> None:
    """Make all missing chunks, and say how it goes.

    Args:
        sets: All sets.
        missing: Of each set the chunks that are not there.
        extractor: Where it is.
        pair: Where it is, if there is one.
        actors: Processes at work, each with a CPU.
        gpus: Give each of them a GPU.
    """
    items = [{"set": n, "chunk": chunk} for n, chunks in enumerate(missing) for chunk in chunks]
    if not items:
        return
    total = sum(len(sets[item["set"]].numbers(item["chunk"])) for item in items)
    progress = Progress("evaluated", total, "images")
    for done in _results(items, (list(sets), extractor, pair), min(actors, len(items)), gpus):
        progress.add(done["images"])


def _results(
    items: list[dict[str, Any]], arguments: tuple[Any, ...], actors: int, gpus: bool
) -> Iterator[dict[str, Any]]:
    results = ray.data.from_items(items, override_num_blocks=len(items)).map(
        Looker,
        fn_constructor_args=arguments,
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=1,
        num_gpus=1 if gpus else 0,
        max_restarts=RETRIES,
        max_task_retries=RETRIES,
    )
    yield from results.iter_rows()
