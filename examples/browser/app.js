// Runs an exported PatchNet in the browser: drop a picture in, see its probability and its heatmap. Of more than two
// classes, or of labels, one is chosen whose map is shown.
//
//   npm install                             (once; it fetches onnxruntime-web)
//   cp .../model.onnx .                     (made by `patchnet export`)
//   python -m http.server                   (then open http://localhost:8000)

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

const say = (text) => { document.getElementById("answer").textContent = text; };

// Yields [number, bytes] of the fields of a protocol buffer, such as an ONNX file, except those that are numbers.
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; at < bytes.length; scale *= 128) {
      const byte = bytes[at++];
      value += (byte % 128) * scale;
      if (byte < 128) break;
    }
    return value;
  };
  while (at < bytes.length) {
    const tag = varint();
    const value = varint();  // of a text or message, its length
    if (tag % 8) yield [tag >> 3, bytes.subarray(at, at += value)];
  }
}

// What the model takes and answers, as its file says. onnxruntime-web does not hand out a file's metadata.
function contractOf(file) {
  const decode = ([, text]) => new TextDecoder().decode(text);
  const entries = [...fields(file)].filter(([number]) => number === 14);  // metadata_props, of {1: key, 2: value}
  const metadata = Object.fromEntries(entries.map(([, entry]) => [...fields(entry)].map(decode)));
  return JSON.parse(metadata["patchnet_tf.contract"]);
}

async function load(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(response.statusText);
  const file = new Uint8Array(await response.arrayBuffer());
  return [await ort.InferenceSession.create(file, { logSeverityLevel: 3 }), contractOf(file)];
}

const [session, contract] = await load("model.onnx")
  .catch((error) => { say(`model.onnx cannot be loaded: ${error.message}`); throw error; });
const [input] = session.inputNames;
const { classes: { names }, pixels: { dtype, range, channels }, smallest } = contract;
if (dtype !== "uint8" || `${range}` !== "0,255" || ![1, 3].includes(channels)) {
  say(`A browser's canvas has pictures of 8 bits alone. This model takes ${dtype}, ${channels} channel(s), ${range}.`);
  throw new Error("other pixels");
}
say("Ready.");

async function read(file) {
  // The pixels as they are in the file, without the screen's colour profile.
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  if (bitmap.height < smallest[0] || bitmap.width < smallest[1]) {
    throw new Error(`not a picture of at least ${smallest.join(" x ")} pixels (height x width)`);
  }
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

// Draws the map of one of the classes that the heatmap's last axis has, or the one map of two classes.
function draw(heatmap, chosen = 0) {
  const [, height, width, maps = 1] = heatmap.dims;
  const canvas = document.getElementById("heatmap");
  [canvas.width, canvas.height] = [width, height];
  const image = new ImageData(width, height);
  for (let k = 0; k < width * height; k++) {
    const grey = Math.round(255 * heatmap.data[maps * k + chosen]);
    image.data.set([grey, grey, grey, 255], 4 * k);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

async function explain(file) {
  if (!file) return;
  say("Thinking ...");
  try {
    const answers = await session.run({ [input]: await read(file) });
    const { probability, heatmap } = answers;
    if (!probability) {  // a file with the heatmap alone
      draw(heatmap);
      return say("This file has the heatmap alone.");
    }
    if (probability.dims.length === 1) {  // two exclusive classes
      if (heatmap) draw(heatmap);
      return say(`Probability of ${names[1]}: ${probability.data[0].toFixed(4)}`);
    }
    const order = [...probability.data.keys()].sort((a, b) => probability.data[b] - probability.data[a]);
    const list = document.getElementById("class");
    list.replaceChildren(...order.map((k) => new Option(`${names[k]}: ${probability.data[k].toFixed(4)}`, k)));
    list.onchange = () => { if (heatmap) draw(heatmap, Number(list.value)); };
    list.onchange();
    list.hidden = false;
    say(heatmap ? "Probabilities; the map is that of the class that is chosen." : "Probabilities.");
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
