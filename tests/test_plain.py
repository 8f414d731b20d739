"""Rewrites into a plain ONNX graph, on graphs made by hand."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from patchnet_tf.export.graph import embed_constants
from patchnet_tf.export.plain import make_plain, shorten_tables


def info(name, dtype, shape):
    return helper.make_tensor_value_info(name, dtype, shape)


def model(nodes, inputs, outputs, constants):
    """A model; constants are numpy arrays by name."""
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "made", inputs, outputs, tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(made, full_check=True)
    return made


def run(made, **feeds):
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def sums(count):
    """x, x + 0 + 1, .. after `count` turns, and what each turn began with, times its number."""
    body = helper.make_graph(
        [
            helper.make_node("Cast", ["turn"], ["number"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["so_far", "number"], ["kept"]),
            helper.make_node("Add", ["so_far", "number"], ["next"]),
            helper.make_node("Add", ["next", "one"], ["more"]),
            helper.make_node("Identity", ["going"], ["goes_on"]),
        ],
        "body",
        [
            info("turn", TensorProto.INT64, []),
            info("going", TensorProto.BOOL, []),
            info("so_far", TensorProto.FLOAT, [2]),
        ],
        [
            info("goes_on", TensorProto.BOOL, []),
            info("more", TensorProto.FLOAT, [2]),
            info("kept", TensorProto.FLOAT, [2]),
        ],
        [numpy_helper.from_array(np.float32(1), "one")],
    )
    loop = helper.make_node("Loop", ["count", "true", "x"], ["last", "all"], body=body)
    outputs = [info("last", TensorProto.FLOAT, [2]), info("all", TensorProto.FLOAT, [None, 2])]
    constants = {"true": True} if count is None else {"true": True, "count": np.int64(count)}
    inputs = [info("x", TensorProto.FLOAT, [2])]
    return model(
        [loop], inputs + ([info("count", TensorProto.INT64, [])] if count is None else []), outputs, constants
    )


def test_a_loop_is_written_out():
    made = sums(3)
    embed_constants(made)
    make_plain(made)
    onnx.checker.check_model(made, full_check=True)
    assert "Loop" not in {node.op_type for node in made.graph.node}
    last, every = run(made, x=np.array([1, 2], "float32"))
    np.testing.assert_array_equal(last, [7, 8])  # + (0 + 1) + (1 + 1) + (2 + 1)
    np.testing.assert_array_equal(every, [[0, 0], [2, 3], [8, 10]])


def test_a_loop_of_unknown_length_is_refused():
    with pytest.raises(ValueError, match="without Loop"):
        make_plain(sums(None))


@pytest.mark.parametrize("axis", [1, 2])
def test_a_mean_in_double_becomes_single_and_the_same_in_every_batch(axis, rng):
    nodes = [
        helper.make_node("Cast", ["q"], ["wide"], to=TensorProto.DOUBLE),
        helper.make_node("ReduceMean", ["wide", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "half"], ["halved"]),
        helper.make_node("Cast", ["halved"], ["p"], to=TensorProto.FLOAT),
    ]
    shape = ["batch", "patches", 3] if axis == 1 else ["batch", 3, "patches"]
    made = model(
        nodes,
        [info("q", TensorProto.FLOAT, shape)],
        [info("p", TensorProto.FLOAT, ["batch", 3])],
        {"axes": [axis], "half": np.float64(0.5)},
    )
    make_plain(made)
    types = {i.type.tensor_type.elem_type for i in onnx.shape_inference.infer_shapes(made).graph.value_info}
    assert types == {TensorProto.FLOAT}
    for patches in (1, 7, 25, 64, 1001):
        q = rng.random((5, patches, 3) if axis == 1 else (5, 3, patches)).astype("float32")
        [together] = run(made, q=q)
        np.testing.assert_allclose(together, q.mean(axis, "float64") / 2, rtol=1e-6)
        for k in range(5):
            np.testing.assert_array_equal(run(made, q=q[k : k + 1])[0][0], together[k])


def test_tables_of_sums_are_written_shorter(rng):
    down, across = rng.integers(0, 99, (40, 1, 9)), rng.integers(0, 99, (1, 30, 9))
    tables = {"sum": down + across, "other": rng.integers(0, 99, (40, 30, 9))}
    nodes = [helper.make_node("Gather", ["x", name], [f"{name}_of_x"]) for name in tables]
    outputs = [info(f"{name}_of_x", TensorProto.FLOAT, [40, 30, 9]) for name in tables]
    made = model(nodes, [info("x", TensorProto.FLOAT, [200])], outputs, tables)
    before = made.ByteSize()
    shorten_tables(made.graph)
    onnx.checker.check_model(made, full_check=True)
    assert made.ByteSize() < 0.6 * before
    x = rng.random(200).astype("float32")
    for got, table in zip(run(made, x=x), tables.values(), strict=True):
        np.testing.assert_array_equal(got, x[table])


def test_what_hands_on_is_left_out():
    """A scalar expanded to a scalar, and a slice from end to end, which OpenVINO refuses."""
    nodes = [
        helper.make_node("Mul", ["s", "s"], ["square"]),
        helper.make_node("Expand", ["square", "scalar"], ["same"]),
        helper.make_node("Add", ["x", "same"], ["shifted"]),
        helper.make_node("Slice", ["shifted", "starts", "ends", "axes", "steps"], ["whole"]),
        helper.make_node("Slice", ["whole", "starts", "ends", "axes", "back"], ["part"]),
        helper.make_node("Relu", ["part"], ["y"]),
    ]
    constants = {
        "scalar": np.zeros(0, "int64"),
        "starts": [0, 0],
        "ends": [10**9, 2**31 - 1],
        "axes": [0, 1],
        "steps": [1, 1],
        "back": [2, 1],
    }
    inputs = [info("x", TensorProto.FLOAT, ["n", 2]), info("s", TensorProto.FLOAT, [])]
    made = model(nodes, inputs, [info("y", TensorProto.FLOAT, ["m", 2])], constants)
    embed_constants(made)
    assert [node.op_type for node in made.graph.node] == ["Mul", "Add", "Slice", "Relu"]
    x = np.arange(6, dtype="float32").reshape(3, 2)
    np.testing.assert_array_equal(run(made, x=x, s=np.array(2, "float32"))[0], (x + 4)[::2])
