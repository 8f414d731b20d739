"""The order in which images are computed, with a model that waits for the test."""

import asyncio
import queue

import numpy as np
import pytest

import patchnet_tf as pn
from patchnet_tf.serving import Predictor
from patchnet_tf.serving.batcher import Batcher
from patchnet_tf.serving.requests import RequestError
from patchnet_tf.serving.versions import Version


class Model:
    """Computes a batch when it is allowed, and says which images were in it."""

    def __init__(self):
        self.allowed, self.batches = queue.Queue(), []

    def probability(self, images, run_options):
        self.batches.append([int(image.flat[0]) for image in images])
        self.allowed.get(timeout=30)
        return images.reshape(len(images), -1)[:, 0] / 256


def image(number, size=4):
    return np.full((size, size, 3), number, "uint8")


def run(main, batches=False, **options):
    """Run `main(ask, model)`, where `ask(images)` is a task; return the batches that were computed."""
    model = Model()
    version = Version(1, None, (), model, batches)

    async def with_batcher():
        batcher = Batcher(heatmap=False, **options)

        async def ask(*images):
            task = asyncio.create_task(batcher.predict(images, version))
            await asyncio.sleep(0)
            return task

        await main(ask, model)

    asyncio.run(asyncio.wait_for(with_batcher(), 60))
    return model.batches


def flat(batches):
    return [number for batch in batches for number in batch]


async def begun(model, count=1):
    while len(model.batches) < count:
        await asyncio.sleep(0.001)


def allow(model, count):
    for _ in range(count):
        model.allowed.put(None)


def test_an_image_of_each_request_in_turn():
    async def main(ask, model):
        many = await ask(*map(image, (10, 11, 12)))
        await begun(model)
        few = [await ask(image(20)), await ask(image(30), image(31))]
        allow(model, 6)
        assert [p.probability for p in await many] == [10 / 256, 11 / 256, 12 / 256]
        assert [p.probability for p in await few[1]] == [30 / 256, 31 / 256]
        await few[0]

    order = flat(run(main))
    assert order[0] == 10
    assert set(order[1:4]) == {11, 20, 30}
    assert set(order[4:]) == {12, 31}


def test_small_before_large_and_large_in_the_end():
    """A large image waits for about as many pixels as it has, however many small ones come."""

    async def main(ask, model):
        first = await ask(image(1))
        await begun(model)
        large = await ask(image(99, 8))  # as many pixels as four small ones
        small = [await ask(image(2))]
        for number in range(3, 9):
            allow(model, 1)
            await begun(model, len(model.batches) + 1)
            small.append(await ask(image(number)))
        allow(model, 20)
        await asyncio.gather(first, large, *small)

    order = flat(run(main))
    assert order[:2] == [1, 2]
    assert 3 <= order.index(99) <= 6


def test_what_nobody_waits_for_is_not_computed():
    async def main(ask, model):
        gone = await ask(*map(image, range(10, 30)))
        await begun(model)
        stays = await ask(image(1))
        gone.cancel()
        allow(model, 2)
        await stays

    assert run(main) == [[10], [1]]


def test_a_batch_is_bounded_by_pixels():
    async def main(ask, model):
        first = await ask(image(1))
        await begun(model)
        others = await ask(*map(image, range(2, 9)))
        allow(model, 9)
        await asyncio.gather(first, others)

    assert [len(batch) for batch in run(main, batches=True, max_batch_pixels=3 * 16)] == [1, 3, 3, 1]
    assert [len(batch) for batch in run(main, batches=True, max_batch_pixels=10)] == [
        1
    ] * 8  # one always fits
    assert [len(batch) for batch in run(main, batches=True)] == [1, 7]


def test_what_waits_is_bounded_by_pixels():
    async def main(ask, model):
        first = await ask(image(1), image(2))
        await begun(model)
        with pytest.raises(RequestError, match="1 images are waiting; try again") as caught:
            await (await ask(image(3, 8)))
        assert caught.value.status == 503
        last = await ask(image(4))
        allow(model, 3)
        await asyncio.gather(first, last)

    assert set(flat(run(main, max_waiting_pixels=64))) == {1, 2, 4}


def test_a_failure_is_for_those_who_asked():
    async def main(ask, model):
        bad = await ask(np.zeros((0, 0, 3), "uint8"))  # which the model cannot index
        with pytest.raises(IndexError):
            await bad
        allow(model, 1)
        await (await ask(image(1)))

    assert run(main) == [[1]]


def test_onnx_runtime_stops_where_nobody_waits(tmp_path):
    """A heatmap that would take minutes ends when whoever asked has left."""
    pn.export.to_onnx(pn.PatchNet((None, None, 3), 17, filters=16, depth=4), tmp_path / "cells.onnx")
    predict = Predictor(tmp_path / "cells.onnx")
    version = Version(1, tmp_path, (), predict, False)
    sizes = []

    async def main():
        batcher = Batcher(heatmap=True, observe=sizes.append)
        large = asyncio.create_task(batcher.predict([np.zeros((2000, 2000, 3), "uint8")], version))
        while not sizes:
            await asyncio.sleep(0.001)
        large.cancel()
        small = np.zeros((20, 20, 3), "uint8")
        [prediction] = await batcher.predict([small], version)
        return prediction, predict(small)

    answer, expected = asyncio.run(asyncio.wait_for(main(), 60))
    np.testing.assert_array_equal(answer.heatmap, expected.heatmap)
