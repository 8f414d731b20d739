"""Dynamic batching: the images that wait while a model runs make up its next batch."""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from .predictor import Prediction
from .requests import RequestError
from .versions import Version


class Job(NamedTuple):
    """An image (H, W, C) that waits, the version that shall answer, and who waits for that."""

    image: np.ndarray
    version: Version
    answer: asyncio.Future


class Lane:
    """Answers images in the order in which they come, several of one size at once where that is exact.

    No image waits for others to come: a batch is what has gathered while the one before it was running. Only
    images of one size share a batch, and only in a version whose `batches` says that it changes no bit.

    Args:
        heatmap: whether heatmaps are wanted, or probabilities alone.
        max_batch: images in a batch.
        max_waiting: images that wait; more are refused with status 503.
        observe: is told the size of each batch.

    Example:
        >>> lane = Lane(heatmap=True)
        >>> [prediction] = await lane.ask([image], version)
    """

    def __init__(
        self,
        *,
        heatmap: bool,
        max_batch: int = 8,
        max_waiting: int = 64,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        self.heatmap, self.max_batch, self.max_waiting = heatmap, max_batch, max_waiting
        self._observe = observe
        self._waiting: deque[Job] = deque()
        self._thread = ThreadPoolExecutor(1, f"heatmap={heatmap}")  # a model uses all cores by itself
        self._work: asyncio.Task | None = None

    async def ask(self, images: Sequence[np.ndarray], version: Version) -> list[Prediction]:
        """Return a prediction for each image; the heatmap is None where none is wanted.

        Raises:
            RequestError: 503, too many images are waiting. None of these is computed then.
        """
        if self._waiting and len(self._waiting) + len(images) > self.max_waiting:
            raise RequestError(f"too many requests: {len(self._waiting)} images are waiting; try again", 503)
        loop = asyncio.get_running_loop()
        jobs = [Job(image, version, loop.create_future()) for image in images]
        self._waiting.extend(jobs)
        if self._work is None or self._work.done():
            self._work = loop.create_task(self._run())
        return await asyncio.gather(*(job.answer for job in jobs))

    async def _run(self) -> None:
        while self._waiting:
            batch = self._next()
            self._observe(len(batch))
            try:
                answers = await asyncio.get_running_loop().run_in_executor(self._thread, self._predict, batch)
            except Exception as error:  # whatever a runtime raises is for those who asked
                answers = [error] * len(batch)
            for job, answer in zip(batch, answers, strict=True):
                if job.answer.done():  # nobody waits any more
                    continue
                if isinstance(answer, Exception):
                    job.answer.set_exception(answer)
                else:
                    job.answer.set_result(answer)

    def _next(self) -> list[Job]:
        """Take the oldest image and those that can go with it; the others keep their order."""
        first = self._waiting.popleft()
        most = self.max_batch - 1 if first.version.batches else 0
        fitting = (
            job
            for job in self._waiting
            if job.version is first.version and job.image.shape == first.image.shape
        )
        others = list(itertools.islice(fitting, most))
        taken = {id(job) for job in others}
        self._waiting = deque(job for job in self._waiting if id(job) not in taken)
        return [first, *others]

    def _predict(self, batch: list[Job]) -> list[Prediction]:
        predict, images = batch[0].version.predict, np.stack([job.image for job in batch])
        if not self.heatmap:
            return [Prediction(float(q), None) for q in predict.probability(images)]
        return [Prediction(float(q), heatmap) for q, heatmap in zip(*predict(images), strict=True)]
