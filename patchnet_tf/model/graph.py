"""A functional Keras model as a list of calls, nested models opened up."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from ..errors import InputError


@dataclass(frozen=True)
class Result:
    """Stands, among a call's arguments, for what another call of the list returned.

    Attributes:
        call: its number.
        output: which of its outputs, where it returns a list.
    """

    call: int
    output: int | None = None

    def of(self, results: Any) -> Any:
        """Return it from the results of the calls, by their numbers."""
        return results[self.call] if self.output is None else results[self.call][self.output]


@dataclass(frozen=True)
class Call:
    """One layer or operation, applied to what earlier calls returned.

    Attributes:
        operation: what is called; the first call of a list is the model's input and has none.
        name: of the operation, "model/layer" where models are nested.
        arguments: (args, kwargs), with a `Result` for each tensor.
        inputs: which calls those are.
        shapes: of those tensors; for the model's input its own.
    """

    operation: Any
    name: str
    arguments: tuple
    inputs: tuple[int, ...]
    shapes: tuple[tuple, ...]

    def apply(self, results: Any, operation: Any = None) -> Any:
        """Call the operation, or another in its place, on the results of the calls before."""
        args, kwargs = keras.tree.map_structure(
            lambda x: x.of(results) if isinstance(x, Result) else x, self.arguments
        )
        return (operation or self.operation)(*args, **kwargs)


def is_functional(model: Any) -> bool:
    """Whether a model is its graph: functional, or sequential and built, with no `call` of its own."""
    if isinstance(model, keras.Sequential):
        return model.built and type(model).call is keras.Sequential.call
    functional = _functional()
    return isinstance(model, functional) and type(model).call is functional.call


@functools.cache
def _functional() -> type:
    """Return the class of functional models, which Keras does not export."""
    x = keras.Input((1,))
    return type(keras.Model(x, x))


def list_calls(model: keras.Model) -> list[Call]:
    """List the calls of a functional model in an order in which they can be made.

    Raises:
        InputError: the model is not functional, or has other than one input.
    """
    if not is_functional(model):
        raise InputError(
            "Only a functional (or built sequential) Keras model can be made local. "
            f"Received: {type(model).__name__} {getattr(model, 'name', model)!r}"
        )
    if len(model.inputs) != 1:
        raise InputError(f"The model must have one input. Received: {len(model.inputs)} of {model.name!r}")
    calls = [Call(None, model.inputs[0].name, ((), {}), (), (tuple(model.inputs[0].shape),))]
    _add_calls(calls, model, [Result(0)], prefix="")
    return calls


def _add_calls(calls: list[Call], model: Any, inputs: list[Result], prefix: str) -> list[Result]:
    """Append the calls of a model on the given inputs; return its outputs."""
    model = getattr(model, "_functional", None) or model  # of a sequential model
    places = {id(tensor): place for tensor, place in zip(model.inputs, inputs, strict=True)}
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if node.is_input:
                continue
            name = prefix + node.operation.name
            tensors = node.input_tensors
            sources = [places[id(tensor)] for tensor in tensors]
            if is_functional(node.operation):
                outputs = _add_calls(calls, node.operation, sources, f"{name}/")
            else:
                arguments = _replace(places, (node.arguments.args, node.arguments.kwargs))
                shapes = tuple(tuple(tensor.shape) for tensor in tensors)
                calls.append(Call(node.operation, name, arguments, tuple(x.call for x in sources), shapes))
                count, single = len(node.outputs), len(node.outputs) == 1
                outputs = [Result(len(calls) - 1, None if single else n) for n in range(count)]
            places |= {id(tensor): place for tensor, place in zip(node.outputs, outputs, strict=True)}
    return [places[id(tensor)] for tensor in model.outputs]


def _replace(places: dict[int, Result], arguments: tuple) -> tuple:
    """Replace the tensors among some arguments by the results that they are, by id."""
    return keras.tree.map_structure(
        lambda x: places[id(x)] if isinstance(x, keras.KerasTensor) else x, arguments
    )


def run_calls(calls: Sequence[Call], image: Any, make: Callable[[int, list], Any]) -> Any:
    """Make the calls in order, from the image on, and return what the last one returns.

    Args:
        calls: the first of them is the model's input.
        image: what that stands for.
        make: makes the call of a number, given the results so far.
    """
    # What nobody reads any more is let go.
    last_use = {source: n for n, call in enumerate(calls) for source in call.inputs}
    results = [image]
    for n, call in enumerate(calls[1:], 1):
        results.append(make(n, results))
        for source in call.inputs:
            if last_use[source] == n:
                results[source] = None
    return results[-1]
