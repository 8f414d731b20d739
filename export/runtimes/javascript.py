"""ONNX Runtime for JavaScript, run by Node.js: its own libraries, and the WebAssembly that browsers run.

Its packages are looked for in the folder that the command runs in, as Node.js looks for them.
"""

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import ClassVar

import numpy as np

from ...contract import IMAGE, OUTPUTS
from .base import Runtime

SCRIPT = """
const fs = require("node:fs");
const ort = require(require.resolve(process.argv[1], { paths: [process.cwd()] }));
const bytes = (text) => new Uint8Array(Buffer.from(text, "base64"));
const { model, image, dtype, shape } = JSON.parse(fs.readFileSync(0));
const arrays = { uint8: Uint8Array, uint16: Uint16Array, float32: Float32Array };
(async () => {
  const session = await ort.InferenceSession.create(fs.readFileSync(model), { logSeverityLevel: 3 });
  const answers = {};
  if (image) {
    const pixels = new arrays[dtype](bytes(image).buffer);
    const outputs = await session.run({ image: new ort.Tensor(dtype, pixels, shape) });
    for (const [name, { data, dims }] of Object.entries(outputs)) {
      answers[name] = [dims, Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("base64")];
    }
  }
  const { node, common, web } = ort.env.versions;
  fs.writeSync(1, JSON.stringify({ version: web ?? node ?? common, answers }));
  process.exit(0);
})().catch((error) => { fs.writeSync(2, `${error.message ?? error}`); process.exit(1); });
"""


class JavaScript(Runtime):
    """A package of ONNX Runtime for JavaScript. Each call starts a process of its own."""

    package: ClassVar[str]

    def __init__(self, path: Path) -> None:
        self.node = shutil.which("node")
        found = f"require.resolve({self.package!r}, {{ paths: [process.cwd()] }})"
        if self.node is None or subprocess.run([self.node, "-e", found], capture_output=True).returncode:
            raise ImportError(self.package)
        self.path = str(path.resolve())
        self.version = f"{self.package} {self.ask()['version']}"

    def ask(self, **what: object) -> dict:
        """Return what the script says of the model and an image."""
        done = subprocess.run(
            [self.node, "-e", SCRIPT, self.package],
            input=json.dumps({"model": self.path, **what}).encode(),
            capture_output=True,
        )
        if done.returncode:
            raise RuntimeError(done.stderr.decode(errors="replace") or f"exit code {done.returncode}")
        return json.loads(done.stdout)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Run a batch."""
        image = base64.b64encode(images.tobytes()).decode()
        said = self.ask(**{IMAGE: image, "dtype": str(images.dtype), "shape": images.shape})
        return {
            name: np.frombuffer(base64.b64decode(data), "float32").reshape(shape)
            for name, (shape, data) in said["answers"].items()
            if name in OUTPUTS
        }


class Node(JavaScript):
    """ONNX Runtime for Node.js."""

    name = "node"
    package = "onnxruntime-node"
    install = "Node.js and `npm install onnxruntime-node`"


class Web(JavaScript):
    """ONNX Runtime Web: WebAssembly, as in a browser."""

    name = "web"
    package = "onnxruntime-web"
    install = "Node.js and `npm install onnxruntime-web`"
