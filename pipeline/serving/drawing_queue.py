"""Pictures of many requests, drawn in one thread: a few at a time, of each request in turn."""

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from torch import Tensor

from pipeline.serving.models import ServedModel
from ratgan.picture import Picture
from ratgan.text_to_image import AT_ONCE

BATCH = 4 * AT_ONCE  # pictures between two looks at who else is waiting


class QueueFullError(Exception):
    """More pictures wait than the server permits."""


@dataclass
class Drawn:
    """A picture that was drawn.

    Attributes:
        image: uint8, [3, H, W].
        unfamiliar: Whether a caption is far from those of the model's training.
    """

    image: Tensor
    unfamiliar: bool


@dataclass(eq=False)
class _Job:
    served: ServedModel
    picture: Picture
    attention: bool
    result: "Future[Drawn]" = field(default_factory=Future)


class DrawingQueue:
    """Draws one picture of each request in turn, those of several together.

    Args:
        limit: Most pictures that wait.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._requests: deque[deque[_Job]] = deque()  # none is empty; the next one is first
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="draw", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return sum(len(jobs) for jobs in self._requests.copy())

    def put(
        self, served: ServedModel, pictures: Sequence[Picture], *, attention: bool = False
    ) -> list["Future[Drawn]"]:
        """Queue pictures of one request, all or none of them.

        A result that is cancelled before its turn is not drawn.

        Raises:
            QueueFullError: If too many wait.
        """
        jobs = deque(_Job(served, picture, attention) for picture in pictures)
        results = [job.result for job in jobs]
        with self._changed:
            if len(self) + len(jobs) > self.limit:
                raise QueueFullError
            self._requests.append(jobs)
            self._changed.notify()
        return results

    def close(self) -> None:
        """Cancel what waits, and end the thread."""
        with self._changed:
            self._ended = True
            for jobs in self._requests:
                for job in jobs:
                    job.result.cancel()
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while self._take_turn():  # which holds no model while nothing is asked
            pass

    def _take_turn(self) -> bool:
        """Draw the next pictures; false at the end."""
        batch = self._next()
        running = [job for job in batch if job.result.set_running_or_notify_cancel()]
        encoded = [job for job in running if self._encode(job)]
        if encoded:
            self._draw(encoded)
        return bool(batch)

    def _next(self) -> list[_Job]:
        """Wait for pictures of one model; nothing at the end.

        Requests for other models keep their place, so theirs is the turn after this one.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._requests or self._ended)
            batch: list[_Job] = []
            while self._requests and not self._ended and len(batch) < BATCH:
                served = (batch or self._requests[0])[0].served
                jobs = next((each for each in self._requests if each[0].served is served), None)
                if jobs is None:
                    break
                self._requests.remove(jobs)
                batch.append(jobs.popleft())
                if jobs:
                    self._requests.append(jobs)
            return batch

    def _encode(self, job: _Job) -> bool:
        """Encode the captions of a picture, or tell who asked why that cannot be done."""
        try:
            for caption in job.picture.captions:
                job.served.vector(caption)
        except Exception as error:
            job.result.set_exception(error)
            return False
        return True

    def _draw(self, jobs: list[_Job]) -> None:
        served = jobs[0].served
        try:
            vectors = {text: served.vector(text) for job in jobs for text in job.picture.captions}
            images = served.model.draw_vectors([job.picture for job in jobs], vectors)
        except Exception as error:
            for job in jobs:
                job.result.set_exception(error)
            return
        for job, image in zip(jobs, images, strict=True):
            texts = job.picture.captions
            try:
                shown = served.attention(image, texts[0]) if job.attention else image
                unfamiliar = any(served.model.unfamiliar(vectors[text]) for text in texts)
                job.result.set_result(Drawn(shown, unfamiliar))
            except Exception as error:
                job.result.set_exception(error)
