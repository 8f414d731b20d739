// Sends an image to the server that this page came from, and draws its answer. No other server is asked.

const byId = (id) => document.getElementById(id);
const BLUE = [5, 113, 176], RED = [202, 0, 32];  // as in the pictures of `patchnet explain`
const STRENGTH = 0.65;  // how much of the colour a certain decision gets

let model = "";  // its name; with what follows it comes from the server
let contract = null;  // its classes, ...
let outputs = [];  // the names of the probability and of the heatmap
let shown = null;  // {name, width, height, grey (H * W), pixels (ImageData or null), heatmap (Float32Array)}

function say(text, error = false) {
  byId("answer").textContent = text;
  byId("answer").classList.toggle("error", error);
}

async function ask(path, options) {
  const response = await fetch(path, options);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

function base64(bytes) {
  let text = "";
  for (let k = 0; k < bytes.length; k += 0x8000) text += String.fromCharCode(...bytes.subarray(k, k + 0x8000));
  return btoa(text);
}

// The image's pixels, turned as its EXIF orientation says; null where the browser cannot read the format.
async function decode(file) {
  try {
    const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    const context = canvas.getContext("2d");
    context.drawImage(bitmap, 0, 0);
    return context.getImageData(0, 0, bitmap.width, bitmap.height);
  } catch {
    return null;
  }
}

// The colour of a decision q over a pixel of that grey.
function colour(q, grey, threshold) {
  const certain = Math.max(q, 1 - q) >= threshold;
  const share = certain ? STRENGTH * Math.abs(2 * q - 1) : 0;
  const end = q < 0.5 ? BLUE : RED;
  return end.map((part) => Math.round((1 - share) * grey + share * part));
}

function draw() {
  if (!shown) return;
  const { name, width, height, pixels, heatmap } = shown;
  const view = document.querySelector("input[name=view]:checked").value;
  const threshold = Number(byId("threshold").value);
  byId("certainty").textContent = threshold.toFixed(2);
  const canvas = byId("picture");
  [canvas.width, canvas.height] = [width, height];
  const image = new ImageData(width, height);
  const data = image.data;
  for (let k = 0; k < heatmap.length; k++) {
    const q = heatmap[k];
    const [red, green, blue] = pixels ? pixels.data.subarray(4 * k, 4 * k + 3) : [192, 192, 192];
    let drawn = [red, green, blue];
    if (view === "heatmap") drawn = Array(3).fill(Math.max(q, 1 - q) >= threshold ? Math.round(255 * q) : 128);
    if (view === "overlay") drawn = colour(q, Math.round(0.299 * red + 0.587 * green + 0.114 * blue), threshold);
    data.set([...drawn, 255], 4 * k);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  drawScale(view, threshold);
  const stem = name.replace(/\.[^.]*$/, "");
  byId("png").href = canvas.toDataURL("image/png");
  byId("png").download = `${stem}_${view}.png`;
  byId("npy").download = `${stem}_heatmap.npy`;
}

function drawScale(view, threshold) {
  const { width, height } = byId("scale");
  const context = byId("scale").getContext("2d");
  for (let row = 0; row < height; row++) {
    const q = 1 - row / (height - 1);
    const value = Math.max(q, 1 - q) >= threshold ? Math.round(255 * q) : 128;
    const [r, g, b] = view === "heatmap" ? [value, value, value] : colour(q, 192, threshold);
    context.fillStyle = `rgb(${r} ${g} ${b})`;
    context.fillRect(0, row, width, 1);
  }
}

// NumPy's file format, version 1.0, little-endian float32.
function npy(heatmap, height, width) {
  let head = `{'descr': '<f4', 'fortran_order': False, 'shape': (${height}, ${width}), }`;
  head = head.padEnd(Math.ceil((head.length + 11) / 64) * 64 - 11) + "\n";
  const bytes = new Uint8Array(10 + head.length);
  bytes.set([0x93, ...new TextEncoder().encode("NUMPY"), 1, 0, head.length & 255, head.length >> 8]);
  bytes.set(new TextEncoder().encode(head), 10);
  const values = new DataView(new ArrayBuffer(4 * heatmap.length));
  heatmap.forEach((q, k) => values.setFloat32(4 * k, q, true));
  return new Blob([bytes, values.buffer], { type: "application/octet-stream" });
}

async function explain(file) {
  if (!file) return;
  say(`${file.name}: computing the heatmap ...`);
  byId("result").hidden = true;
  try {
    const instance = { b64: base64(new Uint8Array(await file.arrayBuffer())) };
    const [answer, pixels] = await Promise.all([
      ask(`v1/models/${model}:predict`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ instances: [instance] }),
      }),
      decode(file),
    ]);
    const [probability, rows] = outputs.map((name) => answer.predictions[0][name]);
    const { names } = contract.classes;
    const [height, width] = [rows.length, rows[0].length];
    const same = pixels && pixels.width === width && pixels.height === height;
    shown = { name: file.name, width, height, pixels: same ? pixels : null, heatmap: Float32Array.from(rows.flat()) };
    const chosen = names[Number(probability > contract.thresholds[0])];
    say(`${file.name}: ${chosen}. Probability of ${names[1]}: ${probability.toFixed(4)}`);
    byId("size").textContent = `${height} x ${width} pixels (height x width)` +
      (same ? "" : "; this browser cannot show the image itself");
    URL.revokeObjectURL(byId("npy").href);
    byId("npy").href = URL.createObjectURL(npy(shown.heatmap, height, width));
    byId("result").hidden = false;
    draw();
  } catch (error) {
    say(`${file.name}: ${error.message}`, true);
  }
}

byId("file").addEventListener("change", (event) => explain(event.target.files[0]));
byId("threshold").addEventListener("input", draw);
for (const view of document.querySelectorAll("input[name=view]")) view.addEventListener("change", draw);
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
document.addEventListener("dragleave", () => document.body.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  explain(event.dataTransfer.files[0]);
});

try {
  [model] = (await ask("v1/models")).models;
  const { metadata, model_spec: spec } = await ask(`v1/models/${model}/metadata`);
  contract = metadata.contract;
  outputs = Object.keys(metadata.signature_def.signature_def.serving_default.outputs);
  byId("model").textContent = `${model}, version ${spec.version}`;
  [byId("zero").textContent, byId("one").textContent] = contract.classes.names;
  say("Ready.");
} catch (error) {
  say(`The server does not answer: ${error.message}`, true);
}
