"""Features of a numbered set of images, stored chunk by chunk in a folder.

    set.json                       what the set is of: images, extractor, pair, sizes
    chunk-00000.safetensors …      features of images 0 … C − 1, and so on

A chunk has the same images whoever makes it, and is there whole or not at all. So what is finished
is never made again, and any number of processes make the same set.

Dimensions in this file:
    n images of a chunk, D features, K kinds of the extractor, P size of the pair's vectors.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pipeline.common.console import Progress
from pipeline.evaluation.image_sets import Images, OpenImages
from pipeline.evaluation.networks import ExtractorRef, PairRef
from pipeline.ray_cluster.parallel_map import RETRIES, in_one_thread, on_each, with_ray
from pipeline.storage.folder import Folder

SET = "set.json"
VECTORS, LOGITS, CLASSES = "vectors", "logits", "classes"
PAIR_IMAGES, PAIR_CAPTIONS = "pair_images", "pair_captions"
SECONDS = "seconds"  # that drawing or reading took, and that features took, float64, [2]


@dataclass(frozen=True)
class FeatureSet:
    """A numbered set of images and where its features are kept; crosses processes freely.

    Attributes:
        folder: Where.
        images: Which.
        identity: What decides the features, as JSON types.
        chunk_images: Images C of a chunk.
        logits: Keep the extractor's logits too.
        pair: Keep the vectors of a pair of encoders too.
    """

    folder: Folder
    images: Images
    identity: dict[str, Any]
    chunk_images: int
    logits: bool = False
    pair: bool = False

    @property
    def count(self) -> int:
        """Images in it."""
        return self.images.count

    @property
    def chunks(self) -> int:
        """Chunks it is made of."""
        return -(-self.count // self.chunk_images)

    def numbers(self, chunk: int) -> NDArray[np.int64]:
        """Return the numbers of the images of a chunk, [n]."""
        start = chunk * self.chunk_images
        return np.arange(start, min(start + self.chunk_images, self.count), dtype=np.int64)

    def begin(self) -> list[int]:
        """Find what is finished already, and return the chunks that are not.

        Raises:
            ValueError: If the folder holds another set.
        """
        if self.folder.exists(SET):
            found, wanted = self.folder.read_json(SET), json.loads(json.dumps(self.identity))
            if unlike := unequal(found, wanted):
                raise ValueError(
                    f"{self.folder} holds the features of other images, or by another extractor "
                    f"({'; '.join(unlike)}). Name another folder, or delete it with --overwrite."
                )
        else:
            self.folder.write_json(SET, self.identity)
        there = set(self.folder.names())
        return [chunk for chunk in range(self.chunks) if _name(chunk) not in there]

    def write(self, chunk: int, tensors: dict[str, Tensor]) -> None:
        """Keep the features of a chunk."""
        content = save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
        self.folder.write(_name(chunk), content)

    def each(self) -> Iterator[dict[str, Tensor]]:
        """Read the features of all chunks, in their order.

        Raises:
            ValueError: If one is damaged.
        """
        for chunk in range(self.chunks):
            where = f"{self.folder}/{_name(chunk)}"
            try:
                tensors: dict[str, Tensor] = load(self.folder.read(_name(chunk)))
                whole = len(tensors[VECTORS]) == len(self.numbers(chunk))
            except (SafetensorError, KeyError) as error:
                raise ValueError(
                    f"{where} is damaged ({error}): delete it and start again."
                ) from error
            if not whole:
                raise ValueError(f"{where} holds other images: delete it and start again.")
            yield tensors


def digest(identity: dict[str, Any]) -> str:
    """Return the name under which a set is found again."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]


def unequal(found: Any, wanted: Any, place: str = "") -> list[str]:
    """Name what differs between two records of JSON types."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        lines = []
        for key in sorted(found.keys() | wanted.keys()):
            lines += unequal(found.get(key), wanted.get(key), f"{place}.{key}".lstrip("."))
        return lines
    return [] if found == wanted else [f"{place}: {found} → {wanted}"]


def _name(chunk: int) -> str:
    return f"chunk-{chunk:05d}.safetensors"


class FeatureActor:
    """Makes chunks, in any process.

    Args:
        sets: All sets.
        extractor: Where it is.
        pair: Where it is, if there is one.
    """

    def __init__(
        self, sets: Sequence[FeatureSet], extractor: ExtractorRef, pair: PairRef | None
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
    extractor: ExtractorRef,
    pair: PairRef | None,
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
        actors: Processes at work, each with a CPU; 0: this one, by one thread as any of them.
        gpus: Give each of them a GPU.
    """
    items = [{"set": n, "chunk": chunk} for n, chunks in enumerate(missing) for chunk in chunks]
    if not items:
        return
    total = sum(len(sets[item["set"]].numbers(item["chunk"])) for item in items)
    progress = Progress("evaluated", total, "images")
    arguments = (list(sets), extractor, pair)
    here = cache(lambda: FeatureActor(*arguments))

    def by_actors(items: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        from ray.data import ActorPoolStrategy

        return with_ray(
            items,
            FeatureActor,
            fn_constructor_args=arguments,
            compute=ActorPoolStrategy(size=min(actors, len(items))),
            # Ray Data warns of both, and gives an actor with a GPU one CPU.
            **({"num_gpus": 1} if gpus else {"num_cpus": 1}),
            max_restarts=RETRIES,
            max_task_retries=RETRIES,
        )

    def by_this_process() -> Iterator[dict[str, Any]]:
        return (in_one_thread(lambda item: here()(item), item) for item in items)

    results = (
        on_each(lambda item: here()(item), items, workers=actors, on_ray=by_actors)
        if actors
        else by_this_process()
    )
    for done in results:
        progress.add(done["images"])
