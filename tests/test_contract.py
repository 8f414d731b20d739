import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchnet_tf.contract import (
    HEATMAP,
    KEY,
    OUTPUTS,
    PROBABILITY,
    SIGNATURES,
    VERSION,
    Contract,
    make_classes,
)
from patchnet_tf.errors import InputError

CONTRACT = Contract(classes={"names": ["cat", "dog"]}, pixels={"channels": 3}, smallest=[17, 21])


@given(
    names=st.lists(st.text(min_size=1).filter(str.isprintable), min_size=2, max_size=9, unique=True),
    exclusive=st.booleans(),
    channels=st.integers(1, 16),
    threshold=st.floats(0, 1),
)
def test_round_trip(names, exclusive, channels, threshold):
    classes = make_classes(names, exclusive)
    contract = Contract(
        classes=classes,
        pixels={"channels": channels},
        smallest=(3, 4),
        thresholds=[threshold] * classes.threshold_count,
    )
    assert Contract.from_json(contract.to_json()) == contract
    assert classes.binary == (exclusive and len(names) == 2)
    assert classes.outputs == (1 if classes.binary else len(names))


def contract_for(names, exclusive):
    """A contract with the thresholds that follow from its classes."""
    return Contract(classes=make_classes(names, exclusive), pixels={"channels": 1}, smallest=(3, 4))


@pytest.mark.parametrize(
    ("names", "exclusive", "axes", "thresholds"),
    [
        (["a", "b"], True, (), (0.5,)),
        (["a", "b", "c"], True, (3,), ()),
        (["a", "b"], False, (2,), (0.5, 0.5)),
        (["a", "b", "c"], False, (3,), (0.5, 0.5, 0.5)),
    ],
)
def test_the_three_kinds_of_classes(names, exclusive, axes, thresholds):
    contract = contract_for(names, exclusive)
    assert contract.outputs[PROBABILITY] == ("probability", "float32", ("batch", *axes))
    assert contract.outputs[HEATMAP] == ("heatmap", "float32", ("batch", "height", "width", *axes))
    assert contract.thresholds == thresholds
    with pytest.raises(ValueError, match=rf"{contract.classes.outputs} probabilities.*Received: 4"):
        contract.names_of([0.1] * 4)


def test_names_of():
    assert CONTRACT.names_of(0.6) == CONTRACT.names_of([0.6]) == ("dog",)
    three = contract_for(["a", "b", "c"], True)
    assert three.names_of([0.2, 0.3, 0.5]) == ("c",)
    assert three.names_of([0.4, 0.4, 0.2]) == ("a",)
    labels = contract_for(["a", "b", "c"], False).model_copy(update={"thresholds": (0.5, 0.2, 0.9)})
    assert labels.names_of([0.5, 0.2, 0.9]) == ()
    assert labels.names_of([0.6, 0.3, 0.8]) == ("a", "b")
    with pytest.raises(ValueError, match="Received: 3 classes, exclusive=True"):
        three.class_of(0.7)


def test_as_many_classes_as_there_may_be():
    names = [f"{k}" for k in range(1001)]
    assert make_classes(names[:1000]).outputs == 1000
    for exclusive in (True, False):
        with pytest.raises(InputError, match=r"at most 1000 names\. Received: 1001"):
            make_classes(names, exclusive)


@pytest.mark.parametrize("names", [["a"], ["a", "a"], [], ["a", ""]])
def test_bad_labels(names):
    with pytest.raises(InputError, match=r"one label makes two exclusive classes.*Received: class_names="):
        make_classes(names, exclusive=False)


def test_json_is_what_the_docstring_shows():
    assert json.loads(CONTRACT.to_json()) == {
        "classes": {"names": ["cat", "dog"], "exclusive": True},
        "pixels": {"dtype": "uint8", "range": [0, 255], "channels": 3},
        "smallest": [17, 21],
        "thresholds": [0.5],
    }


def test_names_and_shapes():
    assert CONTRACT.image == ("image", "uint8", ("batch", "height", "width", 3))
    assert tuple(CONTRACT.outputs) == OUTPUTS
    assert CONTRACT.outputs[PROBABILITY].axes == ("batch",)
    assert CONTRACT.outputs[HEATMAP].axes == ("batch", "height", "width")
    assert set(SIGNATURES) == {"serving_default", "probability", "heatmap", "image_bytes"}


def test_class_of():
    assert [CONTRACT.class_of(q) for q in (0.2, 0.5, 0.51)] == ["cat", "cat", "dog"]
    strict = CONTRACT.model_copy(update={"thresholds": (0.9,)})
    assert strict.class_of(0.8) == "cat"


@pytest.mark.parametrize(
    "names", ["ab", ["a"], ["a", "a"], ["a", ""], ["a", 3], None, 5, ["a", "b", "\ud800"]]
)
def test_bad_names(names):
    with pytest.raises(InputError, match=r"two different names\. Received: class_names="):
        make_classes(names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": {"names": ["cat"]}}, "classes.names"),
        ({"pixels": {"channels": 0}}, "pixels.channels"),
        ({"pixels": {"channels": 3, "dtype": "int8"}}, "pixels.dtype"),
        ({"smallest": [0, 1]}, "smallest.0"),
        ({"thresholds": [0.5, 0.5]}, "one threshold"),
        ({"thresholds": [2.0]}, "thresholds.0"),
        ({"classes": {"names": ["a", "b", "c"]}}, "no threshold"),
        ({"classes": {"names": ["a", "b", "c"], "exclusive": False}}, "3 thresholds"),
        ({"classes": {"names": ["a", "b"], "exclusive": "no"}}, "classes.exclusive"),
        ({"more": 1}, "more"),
    ],
)
def test_bad_contracts(change, message):
    text = json.dumps(json.loads(CONTRACT.to_json()) | change)
    with pytest.raises(InputError, match=rf"^model.onnx: not the contract of a model: .*{message}") as caught:
        Contract.from_json(text, "model.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "null", "[]", "{", "NaN", '"text"'])
def test_no_contract(text):
    with pytest.raises(InputError, match="not the contract of a model"):
        Contract.from_json(text)


def test_metadata_of_a_file():
    metadata = {VERSION: "0.1", KEY: CONTRACT.to_json(), "run": "cells"}
    assert Contract.from_metadata(metadata) == CONTRACT
    for key, message in (
        (KEY, "older version of this package; export it again"),
        (VERSION, "not one made by"),
    ):
        with pytest.raises(InputError, match=f"^model.onnx: .*{message}"):
            Contract.from_metadata({k: v for k, v in metadata.items() if k != key}, "model.onnx")


def test_a_contract_needs_no_framework():
    heavy = "{'tensorflow', 'keras', 'onnxruntime', 'numpy'}"
    code = f"import sys, patchnet_tf.contract; sys.exit(bool({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
