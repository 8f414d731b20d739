"""Fuzzing by coverage with atheris, Google's libFuzzer for Python: whatever comes, InputError alone goes out.

    python -m tests.fuzz TARGET SECONDS [libFuzzer's options]

It exits with 0 if nothing was found; otherwise its last lines say what, and name a file with the input, which
`python -m tests.fuzz TARGET 0 FILE` runs again. Crashes of native code are found too, and inputs that take
more than 20 seconds or 2 GB.
"""

import base64
import io
import json
import struct
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["patchnet_tf", "yaml", "PIL", "tifffile"]):
    import numpy as np
    from PIL import Image

    from patchnet_tf.config import load_config
    from patchnet_tf.contract import Contract, Pixels
    from patchnet_tf.errors import InputError
    from patchnet_tf.images.reading import decode
    from patchnet_tf.serving import protocols
    from patchnet_tf.serving.predictor import Predictor
    from patchnet_tf.serving.requests import read_json
    from patchnet_tf.serving.server.answers import v2_answer

LIMITS = protocols.Limits(2**18, 2**14, 4, 2**15)
ROWS = [[[0, 1, 2], [3, 4, 255]], [[5, 6, 7], [8, 9, 10]]]
ODD = (
    "",
    "b64",
    "image",
    "image_bytes",
    "UINT8",
    "UINT16",
    "FP32",
    "BYTES",
    "familiar",
    "\ud800",
    "\0",
    "classes",
    "inputs",
    "data",
)
KINDS = (
    *(Pixels(channels=channels) for channels in (1, 3)),
    Pixels(channels=1, dtype="uint16", range=(0, 65535)),
    Pixels(channels=3, dtype="float32", range=(-1.0, 1.0)),
)


class Described(Predictor):
    """A predictor that checks images, and has no model."""

    def __init__(self, classes: int, pixels: Pixels) -> None:
        names = [f"class {k}" for k in range(classes)]
        self.contract = Contract(
            classes={"names": names}, pixels=pixels, smallest=(1, 1), familiar=classes > 2
        )
        self.input_shape = (None, None, None, pixels.channels)


PREDICTORS = [Described(k, pixels) for k in (2, 3) for pixels in KINDS]


def image_file(format: str, mode: str = "RGB", size: tuple[int, int] = (9, 7), **options: object) -> bytes:
    """Return a small image file."""
    made = np.random.default_rng(0).integers(0, 256, (*size, 4), "uint8")
    content = io.BytesIO()
    Image.fromarray(made[..., :3]).convert(mode).save(content, format, **options)
    return content.getvalue()


def npy(dtype: str) -> bytes:
    """Return a small .npy file."""
    content = io.BytesIO()
    np.save(content, np.ones((5, 4, 3), dtype))
    return content.getvalue()


FILES = [
    *(image_file(name, mode) for name in ("PNG", "TIFF", "BMP", "WEBP") for mode in ("L", "RGB", "RGBA")),
    *(image_file("JPEG", mode) for mode in ("L", "RGB", "CMYK")),
    *(
        image_file("TIFF", compression=name)
        for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    ),
    *(image_file(name, "P") for name in ("PNG", "GIF")),
    image_file("JPEG", progressive=True),
    image_file("PNG", "1"),
    *(npy(dtype) for dtype in ("uint8", "uint16", "<f4", ">f8")),
]


def decoder(content: bytes) -> None:
    """An image file; the last byte chooses for which kind of pixels."""
    pixels = KINDS[content[-1] % len(KINDS)] if content else KINDS[0]
    image = decode(content[:-1], pixels, max_bytes=LIMITS.max_bytes, max_pixels=LIMITS.max_pixels)
    assert image.dtype == pixels.dtype
    assert image.shape[2] == pixels.channels
    assert image.shape[0] * image.shape[1] <= LIMITS.max_pixels


def v1(content: bytes) -> None:
    """The JSON of TF Serving's predict API."""
    said = read_json(content, LIMITS.max_values(3))
    for predict in PREDICTORS:
        try:
            checked(protocols.read_v1(said, predict, LIMITS), predict)
        except InputError as error:
            check_message(error)


def v2(content: bytes) -> None:
    """A V2 request in JSON."""
    v2_binary(content + struct.pack("<I", len(content)))


def v2_binary(content: bytes) -> None:
    """A V2 request: JSON, bytes, and the length of the JSON in the last 4 bytes."""
    length = int.from_bytes(content[-4:], "little")
    head = read_json(content[:-4][:length], LIMITS.max_values(3))
    tensors, outputs = protocols.read_v2_json(head, content[:-4][length:])
    parameters = head.get("parameters") if type(head.get("parameters")) is dict else {}
    for predict in PREDICTORS:
        try:
            request = protocols.read_v2(tensors, outputs, predict, LIMITS, parameters)
        except InputError as error:
            check_message(error)
            continue
        checked(request, predict)
        arrays = {output: np.zeros((len(request.images), 2), "float32") for output in request.outputs}
        answer = v2_answer(head, "cells", "1", arrays)
        json.loads(answer.body[: int(answer.headers.get(protocols.HEADER_LENGTH, len(answer.body)))])


def config(content: bytes) -> None:
    """A configuration."""
    path = FOLDER / "config.yaml"
    path.write_bytes(content)
    load_config(path)


def check_message(error: InputError, lines: int = 1) -> None:
    """Fail where a message is not for people."""
    said = str(error).split("\n")
    assert len(said) <= lines, said
    assert max(map(len, said)) < 2000, "a message of more than 2000 characters"


def checked(request: protocols.InferRequest, predict: Predictor) -> None:
    """Fail where what was read is beyond what was allowed."""
    sizes = [image.shape[0] * image.shape[1] for image in request.images]
    assert 1 <= len(sizes) <= LIMITS.max_images
    assert max(sizes) <= LIMITS.max_pixels
    assert sum(sizes) <= LIMITS.max_total_pixels
    pixels = predict.contract.pixels
    assert all(image.dtype == pixels.dtype for image in request.images)
    assert all(image.shape[2] == pixels.channels for image in request.images)
    low, high = pixels.range
    assert all(low <= image.min() <= image.max() <= high for image in request.images)


def requests() -> list[dict]:
    """Return requests of TF Serving's protocol."""
    file = {"b64": base64.b64encode(image_file("PNG")).decode()}
    return [
        {"instances": [ROWS, file, {"image": ROWS}, {"image_bytes": file}], "signature_name": "probability"},
        {"inputs": {"image": [ROWS]}, "parameters": {"classes": ["class 0", 2]}},
        {"inputs": [file], "signature_name": "heatmap"},
        {"instances": [[[[0.5, -1, 1e-9]]], [[[7], [65535]]]]},
    ]


def v2_requests() -> list[dict]:
    """Return requests of the V2 protocol, of which the last two have bytes after them."""
    numbers = {"name": "image", "shape": [1, 2, 2, 3], "datatype": "UINT8", "data": [1] * 12}
    grey = {"name": "image", "shape": [1, 2, 2, 1], "datatype": "UINT16", "data": [1, 2, 300, 65535]}
    floats = {**numbers, "datatype": "FP32", "data": [0.5, -1e-9, 1] * 4}
    file = base64.b64encode(image_file("PNG")).decode()
    size = {"parameters": {"binary_data_size": 12}}
    bare = {"name": "image", "shape": [1, 2, 2, 3], "datatype": "UINT8", **size}
    files = {"name": "image_bytes", "shape": [1], "datatype": "BYTES"}
    wanted = [{"name": "probability", "parameters": {"binary_data": True}}]
    return [
        {"inputs": [numbers], "outputs": [{"name": "heatmap"}], "parameters": {"classes": "class 1"}},
        {"inputs": [{**numbers, "data": [ROWS]}], "id": "7"},
        *({"inputs": [tensor]} for tensor in (grey, floats)),
        {"inputs": [{**files, "data": [file]}], "outputs": wanted},
        {"inputs": [bare], "parameters": {"binary_data_output": True, "classes": 0}},
        {"inputs": [{**files, **size}]},
    ]


def odd(data: atheris.FuzzedDataProvider) -> object:
    """Return a value that is hardly expected."""
    kinds = (
        lambda: data.ConsumeInt(9),
        lambda: data.ConsumeIntInRange(-1, 300),
        lambda: data.ConsumeFloat(),
        lambda: data.ConsumeUnicode(8),
        lambda: data.PickValueInList(list(ODD)),
        lambda: data.ConsumeBool(),
        lambda: None,
        lambda: [odd(data) for _ in range(data.ConsumeIntInRange(0, 3))],
        lambda: {data.PickValueInList(list(ODD)): odd(data) for _ in range(data.ConsumeIntInRange(0, 3))},
    )
    return data.PickValueInList(list(kinds))()


def changed(value: object, data: atheris.FuzzedDataProvider) -> object:
    """Return a value of JSON with a part of it replaced, left out or repeated."""
    if data.ConsumeIntInRange(0, 9) == 0:
        return odd(data)
    if isinstance(value, dict):
        kept = {key: changed(item, data) for key, item in value.items() if data.ConsumeIntInRange(0, 19)}
        return kept | (
            {data.PickValueInList(list(ODD)): odd(data)} if data.ConsumeIntInRange(0, 19) == 1 else {}
        )
    if isinstance(value, list) and value:
        kept = [changed(item, data) if k < 4 else item for k, item in enumerate(value)]
        most = 2 if isinstance(value[0], list | dict) else 300
        return kept * data.PickValueInList([1, 1, 1, 1, 1, most])
    return value


def by_structure(target, requests, tail=b""):
    """Return a target whose inputs are bytes, or choose changes of one of the requests."""

    def run(content: bytes) -> None:
        if not content.startswith(b"\0"):
            return target(content)
        data = atheris.FuzzedDataProvider(content[1:])
        written = json.dumps(changed(data.PickValueInList(requests), data)).encode()
        if tail is not None:
            rest = data.ConsumeBytes(20)
            written += rest + struct.pack("<I", len(written))
        target(written)

    return run


def seeds() -> dict[str, list[bytes]]:
    """Return inputs of each target to begin with."""
    ones, twos = ([json.dumps(request).encode() for request in made()] for made in (requests, v2_requests))
    structured = [b"\0" + np.random.default_rng(k).bytes(99) for k in range(9)]
    png = image_file("PNG", "L", (1, 1))
    binary = [b"x" * 12, struct.pack("<I", len(png)) + png]
    configs = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
    return {
        "decoder": [file + bytes([k]) for file in FILES for k in range(len(KINDS))],
        "v1": [*ones, *structured],
        "v2": [*twos, *structured],
        "v2_binary": [
            *(head + rest + struct.pack("<I", len(head)) for head in twos for rest in (b"", *binary)),
            *structured,
        ],
        "config": [path.read_bytes() for path in configs],
    }


TARGETS = {
    "decoder": decoder,
    "v1": by_structure(v1, requests(), None),
    "v2": by_structure(v2, v2_requests(), None),
    "v2_binary": by_structure(v2_binary, v2_requests()),
    "config": config,
}


def main() -> None:
    """Fuzz."""
    name, seconds, *options = sys.argv[1:]
    target = TARGETS[name]

    def run(content: bytes) -> None:
        try:
            target(content)
        except InputError as error:
            check_message(error, 1000 if name == "config" else 1)

    corpus = FOLDER / "corpus"
    corpus.mkdir()
    for number, content in enumerate(seeds()[name]):
        (corpus / str(number)).write_bytes(content)
    words = sorted(
        {*ODD[:-1], "instances", "shape", "parameters", "binary_data_size", "1e400", "-0", "[[[", "}}"}
    )
    quoted = (json.dumps(word)[1:-1] for word in words if word.isascii() and word.isprintable() and word)
    (FOLDER / "words").write_text("".join(f'"{word}"\n' for word in quoted))
    standard = [f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=2048", "-max_len=20000"]
    standard += [f"-dict={FOLDER / 'words'}", "-print_final_stats=1"]
    replay = [option for option in options if not option.startswith("-")]
    atheris.Setup([sys.argv[0], *([] if replay else [str(corpus), *standard]), *options], run)
    atheris.Fuzz()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        FOLDER = Path(folder)
        main()
