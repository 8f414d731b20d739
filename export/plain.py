"""Rewrites of a converted ONNX graph into a plain one: no Loop, no If, no double precision, known shapes.

Small runtimes, and those of phones, graphics processors and browsers, take no other graph. The loop over
a heatmap's tiles, whose number is known where the size of images is fixed, is written out turn by turn;
all turns share the weights.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .graph import embed_constants, rename_all, replace, subgraphs

LARGE = 2**12  # numbers in a constant, from which on it is worth writing it shorter


def make_plain(model: onnx.ModelProto) -> None:
    """Write a graph, after `embed_constants`, without loops and without double precision; in place.

    Raises:
        ValueError: there is a branch, or a loop whose number of turns only shows when it runs.
    """
    unroll(model.graph)
    make_single(model.graph)
    embed_constants(model)
    left = {node.op_type for node in model.graph.node if subgraphs(node)}
    if left:
        raise ValueError(f"The graph cannot be written without {', '.join(sorted(left))}")
    shorten_tables(model.graph)


def unroll(graph: onnx.GraphProto) -> None:
    """Write each loop out, turn by turn, where the number of turns is constant; in place."""
    known = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type == "Loop" and node.input[0] in known:
            nodes += turns(node, int(numpy_helper.to_array(known[node.input[0]])), graph)
        else:
            nodes.append(node)
    replace(graph.node, nodes)


def turns(loop: onnx.NodeProto, count: int, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes of all turns of a loop that goes on to its last one; constants go to `graph`."""
    [body] = subgraphs(loop)
    graph.initializer.extend(body.initializer)
    states = list(loop.input[2:])
    collected = [[] for _ in loop.output[len(states) :]]
    axis = f"{body.name}/first_axis"
    graph.initializer.append(numpy_helper.from_array(np.array([0]), axis))
    nodes = []
    for turn in range(count):
        number, going = f"{body.name}/turn{turn}", f"{body.name}/going{turn}"
        graph.initializer.append(numpy_helper.from_array(np.array(turn), number))
        graph.initializer.append(numpy_helper.from_array(np.array(True), going))
        inputs = (info.name for info in body.input)
        names = dict(zip(inputs, [number, going, *states], strict=True))
        names |= {name: f"{name}/{turn}" for node in body.node for name in node.output}
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in body.node]
        rename_all(copies, names)
        for copy in copies:
            copy.name = copy.output[0]
        nodes += copies
        _, *results = (names.get(info.name, info.name) for info in body.output)
        states, scanned = results[: len(states)], results[len(states) :]
        for so_far, name in zip(collected, scanned, strict=True):
            so_far.append(f"{name}/collected")
            nodes.append(helper.make_node("Unsqueeze", [name, axis], [so_far[-1]]))
    for output, state in zip(loop.output, states, strict=False):
        nodes.append(helper.make_node("Identity", [state], [output]))
    for output, so_far in zip(loop.output[len(states) :], collected, strict=True):
        nodes.append(helper.make_node("Concat", so_far, [output], axis=0))
    return nodes


def make_single(graph: onnx.GraphProto) -> None:
    """Compute in single precision what is in double; in place.

    It is the mean of the decisions, which so comes out the same in every batch; ONNX Runtime's single mean
    adds up in an order that depends on the batch. `GlobalAveragePool` adds each image up by itself.
    """
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.DOUBLE:
            values = numpy_helper.to_array(tensor).astype("float32")
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    graph.initializer.append(numpy_helper.from_array(np.array([3]), "plain/last"))
    graph.initializer.append(numpy_helper.from_array(np.array([2, 3]), "plain/map"))
    doubles, nodes = set(), []
    for node in graph.node:
        was_double = bool(doubles.intersection(node.input))
        to = next((attribute.i for attribute in node.attribute if attribute.name == "to"), None)
        if to == TensorProto.DOUBLE or (was_double and to is None):
            doubles.update(node.output)
        if to == TensorProto.DOUBLE or (was_double and to == TensorProto.FLOAT):
            nodes.append(helper.make_node("Identity", node.input, node.output))
        elif was_double and node.op_type == "ReduceMean":
            nodes += mean(node, known[node.input[1]].tolist())
        else:
            nodes.append(node)
    replace(graph.node, nodes)


def mean(node: onnx.NodeProto, axes: list[int]) -> list[onnx.NodeProto]:
    """Return the mean over the patches of decisions, (B, P, K) or (B, K, P), to (B, K)."""
    [kept] = {1, 2} - {axis % 3 for axis in axes}
    name = node.output[0]
    return [
        helper.make_node("Transpose", [node.input[0]], [f"{name}/by_image"], perm=[0, kept, 3 - kept]),
        helper.make_node("Unsqueeze", [f"{name}/by_image", "plain/last"], [f"{name}/as_map"]),
        helper.make_node("GlobalAveragePool", [f"{name}/as_map"], [f"{name}/mean"]),
        helper.make_node("Squeeze", [f"{name}/mean", "plain/map"], [name]),
    ]


def shorten_tables(graph: onnx.GraphProto) -> None:
    """Write a large table (h, w, n) that is the sum of (h, 1, n) and (1, w, n) as that sum; in place.

    Where the gathers of the heatmap read is such a table. Runtimes add it up when they load the file.
    """
    parts, sums = [], []
    for tensor in graph.initializer:
        table = numpy_helper.to_array(tensor)
        if table.dtype.kind == "i" and table.ndim == 3 and table.size > LARGE:
            down, across = table[:, :1], table[:1] - table[:1, :1]
            if np.array_equal(down + across, table):
                names = [f"{tensor.name}/down", f"{tensor.name}/across"]
                parts += map(numpy_helper.from_array, (np.ascontiguousarray(down), across), names)
                sums.append(helper.make_node("Add", names, [tensor.name], name=tensor.name))
                continue
        parts.append(tensor)
    replace(graph.initializer, parts)
    replace(graph.node, [*sums, *graph.node])
