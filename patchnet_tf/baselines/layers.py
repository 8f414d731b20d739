"""Layers of a model, and what happens in them while the model runs.

A model is run step by step (eagerly) with a layer's `call` replaced for that time. So layers are found in
nested models too, and the model stays as it was.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras


def every_layer(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yield a model's layers in their order, those of nested models in place of them."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from every_layer(layer)
        else:
            yield layer


def find(model: keras.Model, kinds: Any, what: str, name: str | None = None) -> keras.layers.Layer:
    """Return the layer of that name, or the last of the kinds."""
    layers = list(every_layer(model))
    matching = [layer for layer in layers if (layer.name == name if name else isinstance(layer, kinds))]
    if name and len(matching) != 1:
        raise ValueError(
            "`layer` must be the name of one layer, and none that is a model itself: of one in that. "
            f"Received: layer={name!r}, of which {model.name!r} has {len(matching)}"
        )
    if not matching:
        raise ValueError(
            f"The model needs {what}. "
            f"Received: {model.name!r}, whose last layers are {[layer.name for layer in layers[-8:]]}"
        )
    return matching[-1]


@contextlib.contextmanager
def replaced(layer: keras.layers.Layer, name: str, value: Callable) -> Iterator[None]:
    """Give a layer another method or function for a while."""
    own = layer.__dict__.get(name)
    setattr(layer, name, value)
    try:
        yield
    finally:
        delattr(layer, name)
        if own is not None:
            setattr(layer, name, own)


@contextlib.contextmanager
def recorded(layer: keras.layers.Layer) -> Iterator[list[tuple[Any, Any]]]:
    """Collect (input, output) of each call of a layer."""
    call, calls = layer.call, []

    def recording(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = call(inputs, *args, **kwargs)
        calls.append((inputs, outputs))
        return outputs

    with replaced(layer, "call", recording):
        yield calls


@contextlib.contextmanager
def without_end(model: keras.Model) -> Iterator[None]:
    """Let a model return its scores: without the sigmoid or softmax of its last layer."""
    *_, last = every_layer(model)
    if isinstance(last, keras.layers.Softmax):
        with replaced(last, "call", lambda scores, mask=None: scores):
            yield
    elif getattr(last, "activation", None) in (keras.activations.sigmoid, keras.activations.softmax):
        with replaced(last, "activation", keras.activations.linear):
            yield
    else:
        yield
