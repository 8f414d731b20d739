"""Dynamic batching: the images that wait while a model runs make up its next batch."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime

from .predictor import FATAL, Prediction, maps_of, one
from .requests import RequestError
from .versions import Version


@dataclass(eq=False)
class Job:
    """What one request wants.

    Attributes:
        version: that shall answer.
        images: (H, W, C), that wait.
        classes: the numbers of those whose maps are wanted; None for all.
        answer: of whoever waits; cancelled where nobody does any more.
        turn: of the next image; the lowest comes first.
        count: of all its images.
        predictions: of the images before.
    """

    version: Version
    images: deque[np.ndarray]
    classes: Sequence[int] | None
    answer: asyncio.Future
    turn: int
    count: int
    predictions: list[Prediction] = field(default_factory=list)


class Batcher:
    """Answers images, several of one size at once where that is exact.

    No image waits for others to come: a batch is what has gathered while the one before it was running. Only
    images of one size share a batch, and only in a version whose `batches` says that it changes no bit.

    Requests take turns, an image of each, as fair queueing does: the turn of an image is when it would end
    were the model shared by all that wait, so a small image comes before a large one, which waits for about
    as many pixels of other requests as it has itself. What nobody waits for any more is not computed.

    Args:
        heatmap: whether heatmaps are wanted, or probabilities alone.
        max_batch: images in a batch.
        max_batch_pixels: of all images in a batch of several: memory grows with them.
        max_waiting, max_waiting_pixels: of what waits; more is refused with status 503. An image of which K
            maps are made has K times its pixels in both.
        observe: is told the size of each batch.

    Example:
        >>> batcher = Batcher(heatmap=True)
        >>> [prediction] = await batcher.predict([image], version)
    """

    def __init__(
        self,
        *,
        heatmap: bool,
        max_batch: int = 8,
        max_batch_pixels: int = 2**20,
        max_waiting: int = 64,
        max_waiting_pixels: int = 2**23,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        self.heatmap, self.max_batch, self.max_batch_pixels = heatmap, max_batch, max_batch_pixels
        self.max_waiting, self.max_waiting_pixels = max_waiting, max_waiting_pixels
        self._observe = observe
        self._waiting: list[Job] = []  # those with images
        self._running: list[tuple[Job, np.ndarray]] = []
        self._run_options = onnxruntime.RunOptions()
        self._clock = 0  # the turn of the last image
        self._thread = ThreadPoolExecutor(1, f"heatmap={heatmap}")  # a model uses all cores by itself
        self._work: asyncio.Task | None = None

    async def predict(
        self, images: Sequence[np.ndarray], version: Version, classes: Sequence[int] | None = None
    ) -> list[Prediction]:
        """Return a prediction for each image; the heatmap is None where none is wanted.

        Of several classes, `classes` are the numbers of those whose maps are wanted; None for all.

        Where the caller is cancelled, the images that wait are dropped, and ONNX Runtime is told to stop.

        Raises:
            RequestError: 503, too many images are waiting. None of these is computed then.
        """
        waiting = sum(len(job.images) for job in self._waiting)
        size = sum(self._size(job.images, job.version) for job in self._waiting)
        if waiting and (
            waiting + len(images) > self.max_waiting
            or size + self._size(images, version) > self.max_waiting_pixels
        ):
            raise RequestError(f"too many requests: {waiting} images are waiting; try again", 503)
        loop = asyncio.get_running_loop()
        first = self._clock + pixels(images[:1])
        job = Job(version, deque(images), classes, loop.create_future(), first, len(images))
        self._waiting.append(job)
        if self._work is None or self._work.done():
            self._work = loop.create_task(self._run())
        try:
            return await job.answer
        finally:
            if job in self._waiting:
                self._waiting.remove(job)
            if all(running.answer.done() for running, _ in self._running):
                self._run_options.terminate = True

    async def _run(self) -> None:
        while self._waiting:
            batch = self._running = self._next()
            self._run_options = run_options(self._size((image for _, image in batch), batch[0][0].version))
            self._observe(len(batch))
            try:
                answers = await asyncio.get_running_loop().run_in_executor(
                    self._thread, self._predict, batch, self._run_options
                )
            except Exception as error:  # whatever a runtime raises is for those who asked
                answers = [error] * len(batch)
            for (job, _), answer in zip(batch, answers, strict=True):
                if job.answer.done():  # it failed, or nobody waits any more
                    continue
                if isinstance(answer, Exception):
                    job.answer.set_exception(answer)
                    continue
                job.predictions.append(answer)
                if len(job.predictions) == job.count:
                    job.answer.set_result(job.predictions)

    def _next(self) -> list[tuple[Job, np.ndarray]]:
        """Take the image whose turn it is, and those that can go with it."""
        first = min(self._waiting, key=turn)
        batch = [(first, self._take(first))]
        [(_, image)] = batch
        most = 1
        if first.version.batches:
            most = min(self.max_batch, self.max_batch_pixels // self._size([image], first.version))
        while len(batch) < most:
            fitting = [
                job
                for job in self._waiting
                if job.version is first.version and job.images[0].shape == image.shape
            ]
            if not fitting:
                break
            job = min(fitting, key=turn)
            batch.append((job, self._take(job)))
        return batch

    def _take(self, job: Job) -> np.ndarray:
        """Take a job's next image; that after it has a later turn."""
        image = job.images.popleft()
        self._clock = max(self._clock, job.turn)
        if job.images:
            job.turn += pixels([job.images[0]])
        else:
            self._waiting.remove(job)
        return image

    def _predict(self, batch: list[tuple[Job, np.ndarray]], options: Any) -> list[Prediction]:
        predict, images = batch[0][0].version.predict, np.stack([image for _, image in batch])
        if not self.heatmap:
            return [Prediction(one(q), None) for q in predict.probability(images, run_options=options)]
        made = predict(images, run_options=options)
        answers = []
        for k, (job, _) in enumerate(batch):
            answers.append(Prediction(one(made.probability[k]), maps_of(made.heatmap[k], job.classes)))
            if made.familiar is not None:
                answers[-1].familiar = made.familiar[k]
        return answers

    def _size(self, images: Iterable[np.ndarray], version: Version) -> int:
        """Return how many pixels images have together, those of each class's map counted."""
        return pixels(images) * (version.predict.contract.classes.outputs if self.heatmap else 1)


def run_options(size: int) -> onnxruntime.RunOptions:
    """Return the options of a run for so many pixels; after many, memory is given back to the system."""
    options = onnxruntime.RunOptions()
    options.log_severity_level = FATAL
    if size > 2**16:
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def turn(job: Job) -> int:
    """Return when a job's next image is computed."""
    return job.turn


def pixels(images: Iterable[np.ndarray]) -> int:
    """Return how many pixels images (H, W, C) have together."""
    return sum(image.shape[0] * image.shape[1] for image in images)
