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
    names=st.lists(st.text(min_size=1).filter(str.isprintable), min_size=2, max_size=2, unique=True),
    channels=st.integers(1, 16),
    threshold=st.floats(0, 1),
)
def test_round_trip(names, channels, threshold):
    contract = Contract(
        classes=make_classes(names), pixels={"channels": channels}, smallest=(3, 4), thresholds=[threshold]
    )
    assert Contract.from_json(contract.to_json()) == contract


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


@pytest.mark.parametrize("names", ["ab", ["a"], ["a", "a"], ["a", ""], ["a", 3], None, 5, ["a", "b", "c"]])
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
