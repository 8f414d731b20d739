// Runs an exported PatchNet in the browser: drop a picture in, see its probability and its heatmap.
//
//   npm install                             (once; it fetches onnxruntime-web)
//   cp .../model.onnx .                     (made by `patchnet export`)
//   python -m http.server                   (then open http://localhost:8000)

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

const say = (text) => { document.getElementById("answer").textContent = text; };

const session = await ort.InferenceSession.create("model.onnx", { logSeverityLevel: 3 })
  .catch((error) => { say(`model.onnx cannot be loaded: ${error.message}`); throw error; });
const channels = session.inputMetadata[0].shape[3];
say("Ready.");

async function read(file) {
  // The pixels as they are in the file, without the screen's colour profile.
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  const canvas = document.getElementById("picture");
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const { data, width, height } = context.getImageData(0, 0, bitmap.width, bitmap.height);  // RGBA
  const pixels = new Uint8Array(width * height * channels);
  for (let k = 0; k < width * height; k++) {
    const [red, green, blue] = data.subarray(4 * k, 4 * k + 3);
    if (channels === 1) pixels[k] = Math.round(0.299 * red + 0.587 * green + 0.114 * blue);
    else pixels.set([red, green, blue], 3 * k);
  }
  return new ort.Tensor("uint8", pixels, [1, height, width, channels]);
}

function draw(heatmap) {
  const [, height, width] = heatmap.dims;
  const canvas = document.getElementById("heatmap");
  [canvas.width, canvas.height] = [width, height];
  const image = new ImageData(width, height);
  heatmap.data.forEach((q, k) => {
    const grey = Math.round(255 * q);
    image.data.set([grey, grey, grey, 255], 4 * k);
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

async function explain(file) {
  if (!file) return;
  say("Thinking ...");
  try {
    const { probability, heatmap } = await session.run({ image: await read(file) });
    draw(heatmap);
    say(`Probability of class 1: ${probability.data[0].toFixed(4)}`);
  } catch (error) {
    say(`${file.name}: ${error.message}`);
  }
}

document.getElementById("file").addEventListener("change", (event) => explain(event.target.files[0]));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  explain(event.dataTransfer.files[0]);
});
