"""Rewrites of a converted ONNX graph: the same numbers, in a form that runtimes run fast.

tf2onnx hands every weight to the loop over the heatmap's tiles as a loop state that each turn returns as it
was, and transposes it anew in each turn. A runtime cannot know that such a weight is constant, and falls back
to slow convolutions. After `embed_constants` each weight is an initializer of the loop's own body, in the
layout that its convolution wants.
"""

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Constants = dict[str, np.ndarray]

# Operators that only rearrange or convert: on constants they can be carried out once and for all.
REARRANGE = (
    "Cast",
    "Concat",
    "Constant",
    "Identity",
    "Reshape",
    "Slice",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)
# And any other operator that makes so few numbers of so few: counts, places and shapes.
FEW = 64
ENDLESS = 10**9  # where a slice ends that goes to the end, at least


def embed_constants(model: onnx.ModelProto) -> None:
    """Make every constant an initializer, ready for use, of the graph or subgraph that uses it; in place."""
    capture_invariants(model.graph)
    prune(model.graph)
    fold(model.graph, {}, model.opset_import)
    shortcut(model.graph)


def make_optional(graph: onnx.GraphProto, output: str, switch: str) -> None:
    """Compute `output` only where the boolean input `switch` is true; in place.

    Runtimes compute all outputs of a graph, whichever are asked for. The input has the default true, so
    that most users need not know of it. Where it is false, the output is empty.
    """
    [info] = [info for info in graph.output if info.name == output]
    kept = ancestors(graph, [other.name for other in graph.output if other.name != output])
    branch = [node for node in graph.node if not kept.intersection(node.output)]
    rank, dtype = len(info.type.tensor_type.shape.dim), info.type.tensor_type.elem_type
    for node in branch:
        rename(node, {output: f"{output}_computed"})
    computed = helper.make_tensor_value_info(f"{output}_computed", dtype, [None] * rank)
    empty = helper.make_tensor_value_info(f"{output}_empty", dtype, [0] * rank)
    nothing = helper.make_tensor(f"{output}_nothing", dtype, [0] * rank, [])
    choose = helper.make_node(
        "If",
        [switch],
        [output],
        name=f"{output}_if_{switch}",
        then_branch=helper.make_graph(branch, f"{output}_branch", [], [computed]),
        else_branch=helper.make_graph(
            [helper.make_node("Constant", [], [empty.name], value=nothing)], f"no_{output}", [], [empty]
        ),
    )
    replace(graph.node, [*(node for node in graph.node if kept.intersection(node.output)), choose])
    graph.input.append(helper.make_tensor_value_info(switch, onnx.TensorProto.BOOL, []))
    graph.initializer.append(numpy_helper.from_array(np.array(True), switch))


def capture_invariants(graph: onnx.GraphProto) -> None:
    """Let loop bodies read what no turn of the loop changes from outside, instead of handing it round."""
    for node in graph.node:
        for subgraph in subgraphs(node):
            capture_invariants(subgraph)
        if node.op_type != "Loop":
            continue
        [body] = subgraphs(node)
        # A body's inputs are the turn's number, the condition and the states; its outputs are the
        # condition, the states and what the turns collect. The loop's are the same without the condition.
        for k in reversed(invariant_states(body)):
            outside = node.input[k + 2]
            rename_all(body.node, {body.input[k + 2].name: outside})
            rename_all(graph.node, {node.output[k]: outside})
            del body.input[k + 2], body.output[k + 1], node.input[k + 2], node.output[k]


def invariant_states(body: onnx.GraphProto) -> list[int]:
    """Return the numbers of the states that the body of a loop returns as it was given them."""
    source = {node.output[0]: node.input[0] for node in body.node if node.op_type == "Identity"}
    invariant = []
    for k, state in enumerate(body.input[2:]):
        name = body.output[k + 1].name
        while name in source:
            name = source[name]
        if name == state.name:
            invariant.append(k)
    return invariant


def fold(graph: onnx.GraphProto, outside: Constants, opsets: Iterable[onnx.OperatorSetIdProto]) -> None:
    """Carry out what rearranges constants, and give subgraphs their own copies of those that they use."""
    overridable = {info.name for info in graph.input}
    constants = outside | {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.name not in overridable
    }
    results = {info.name for info in graph.output}
    for node in graph.node:
        known = all(name in constants for name in node.input) and not subgraphs(node)
        few = known and sum(constants[name].size for name in node.input) <= FEW
        if known and (few or node.op_type in REARRANGE) and not results.intersection(node.output):
            constants |= evaluate(node, constants, opsets)
        for subgraph in subgraphs(node):
            fold(subgraph, constants, opsets)
    replace(graph.node, [node for node in graph.node if node.output[0] not in constants])

    used = {name for node in graph.node for name in node.input} | results
    kept = {}  # each constant once, except where its name matters
    for name in sorted(used & constants.keys()):
        # A constant of an outer graph gets another name: names are unique in the whole model.
        own = f"{graph.name}/{name}" if name in outside else name
        value = constants[name]
        key = name if name in results else identity(value)
        tensor = kept.setdefault(key, numpy_helper.from_array(value, own))
        rename_all(graph.node, {name: tensor.name})
    defaults = [tensor for tensor in graph.initializer if tensor.name in overridable]
    replace(graph.initializer, [*defaults, *kept.values()])


def shortcut(graph: onnx.GraphProto) -> None:
    """Remove the nodes that hand on what another node of the same graph made, as it is."""
    for node in graph.node:
        for subgraph in subgraphs(node):
            shortcut(subgraph)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    computed = {name for node in graph.node for name in node.output}
    results = {info.name for info in graph.output}
    for node in [node for node in graph.node if hands_on(node, constants)]:
        source, target = node.input[0], node.output[0]
        if source not in computed or results.issuperset((source, target)):
            continue
        graph.node.remove(node)
        rename_all(graph.node, {source: target} if target in results else {target: source})
    prune_constants(graph)


def hands_on(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    """Return whether what a node makes is its first input: also of scalars, and of slices from end to end.

    OpenVINO refuses these two.
    """
    if node.op_type not in ("Expand", "Slice"):
        return node.op_type == "Identity"
    if not constants.keys() >= {*node.input[1:]}:
        return False
    values = [numpy_helper.to_array(constants[name]) for name in node.input[1:]]
    if node.op_type == "Expand":
        return values[0].size == 0
    starts, ends, *_ = values
    steps = values[3] if len(values) == 4 else np.array(1)
    return not starts.any() and bool((ends >= ENDLESS).all() and (steps == 1).all())


def prune_constants(graph: onnx.GraphProto) -> None:
    """Remove the constants that nothing needs any more."""
    used = {name for node in graph.node for name in reads(node)}
    used |= {info.name for info in (*graph.input, *graph.output)}
    replace(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in used])


def identity(value: np.ndarray) -> tuple:
    """Return what equal arrays, and only they, have in common."""
    return value.dtype, value.shape, value.tobytes()


def evaluate(node: onnx.NodeProto, constants: Constants, opsets: Iterable) -> Constants:
    """Return the outputs of a node whose inputs are all constant."""
    feeds = {name: constants[name] for name in node.input}
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feeds.items()
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
    graph = helper.make_graph([node], "constants", inputs, outputs)
    values = ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets)).run(None, feeds)
    # In C order, which `numpy_helper.from_array` takes for granted.
    return {name: np.asarray(value, order="C") for name, value in zip(node.output, values, strict=True)}


def prune(graph: onnx.GraphProto) -> None:
    """Remove the nodes, of subgraphs too, that nothing needs."""
    needed = ancestors(graph, [info.name for info in graph.output])
    replace(graph.node, [node for node in graph.node if needed.intersection(node.output)])
    for node in graph.node:
        for subgraph in subgraphs(node):
            prune(subgraph)


def ancestors(graph: onnx.GraphProto, names: Iterable[str]) -> set[str]:
    """Return `names` and all values of the graph that they are computed from."""
    needed = set(names)
    for node in reversed(graph.node):  # nodes stand in the order of computation
        if needed.intersection(node.output):
            needed |= reads(node)
    return needed


def reads(node: onnx.NodeProto) -> set[str]:
    """Return the names that a node reads, its subgraphs included."""
    inner = (reads(child) for subgraph in subgraphs(node) for child in subgraph.node)
    results = ({info.name for info in subgraph.output} for subgraph in subgraphs(node))
    return {*node.input}.union(*inner, *results)


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the graphs inside a node: the body of a Loop, the branches of an If."""
    return [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]


def rename_all(nodes: Iterable[onnx.NodeProto], names: dict[str, str]) -> None:
    """Rename values, old name to new, wherever the nodes write or read them."""
    for node in nodes:
        rename(node, names)


def rename(node: onnx.NodeProto, names: dict[str, str]) -> None:
    """Rename values, old name to new, wherever the node and its subgraphs write or read them."""
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    for subgraph in subgraphs(node):
        rename_all(subgraph.node, names)
        for info in subgraph.output:
            info.name = names.get(info.name, info.name)


def replace(field: list, values: Iterable) -> None:
    """Set a repeated field of a protocol buffer to `values`, which may be its own."""
    values = list(values)
    del field[:]
    field.extend(values)
