// Sends an image to the server that this page came from, and draws its answer. No other server is asked.

const byId = (id) => document.getElementById(id);
const BLUE = [5, 113, 176], RED = [202, 0, 32];  // as in the pictures of `patchnet explain`
// Of several channels, as `patchnet_tf.images.pixels.displayed` has them.
const COLOURS = ["magenta", "green", "blue", "yellow", "cyan", "red", "white", "orange", "violet", "lime",
  "azure", "pink", "mint", "brown", "teal", "grey"];
const STRENGTH = 0.65;  // how much of the colour a certain decision gets

let model = "";  // its name; with what follows it comes from the server
let contract = null;  // its classes, ...
let outputs = [];  // the names of the probability and of the heatmap
let token = "";
// {name, width, height, pixels (ImageData or null), heatmap (Float32Array), of (the name of the heatmap's class)}
let shown = null;
let turn = 0;  // of the last image or class that was asked for; answers for earlier ones are dropped

// Whether two exclusive classes share one probability and one map.
const binary = () => contract.classes.exclusive && contract.classes.names.length === 2;

function say(text, error = false) {
  byId("answer").textContent = text;
  byId("answer").classList.toggle("error", error);
}

function askForToken() {
  say(token ? "The server does not know this token." : "The server asks for a token.", true);
  byId("door").hidden = false;
  byId("token").focus();
  return new Promise((entered) => {
    byId("token").addEventListener("change", (event) => {
      // Headers hold no other characters.
      token = event.target.value.trim().replace(/[^!-~]/g, "?");
      event.target.value = "";
      byId("door").hidden = true;
      say("Asking the server ...");
      entered();
    }, { once: true });
  });
}

// Where the server wants a token, asks for one, and asks again with it. It is forgotten with the page.
async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(token && { authorization: `Bearer ${token}` }) };
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) {
    await askForToken();
    return ask(path, options);
  }
  const drawn = response.headers.get("content-type") === "image/png";
  const answer = drawn ? await response.blob() : await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

function base64(bytes) {
  let text = "";
  for (let k = 0; k < bytes.length; k += 0x8000) text += String.fromCharCode(...bytes.subarray(k, k + 0x8000));
  return btoa(text);
}

// Whether the model takes the 8 bits that a browser draws.
function plain() {
  const { dtype, range, channels, select } = contract.pixels;
  return dtype === "uint8" && range[0] === 0 && range[1] === 255 && [1, 3].includes(channels) && !select;
}

// The file as the server draws it.
function drawn(file) {
  const headers = { "content-type": "application/octet-stream" };
  return ask(`v1/models/${model}:picture`, { method: "POST", headers, body: file });
}

const bitmapOf = (file) => createImageBitmap(file, { colorSpaceConversion: "none" });

// The image's pixels, turned as its EXIF orientation says; null where nobody can draw it. The server draws
// what this browser cannot.
async function decode(file) {
  try {
    const own = plain() ? bitmapOf(file) : Promise.reject();
    const bitmap = await own.catch(async () => bitmapOf(await drawn(file)));
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
  // Of several classes, the name of the map's, without what file names cannot have.
  const of = shown.of ? `_${shown.of.replace(/[^\p{L}\p{N}._-]+/gu, "_")}` : "";
  byId("png").download = `${stem}${of}_${view}.png`;
  byId("npy").download = `${stem}${of}_heatmap.npy`;
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

// The server's answer for one image; `options` are those of the request.
async function predict(instance, options) {
  const answer = await ask(`v1/models/${model}:predict`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ instances: [instance], ...options }),
  });
  return answer.predictions[0];
}

// Shows an image and a map of it, rows of numbers.
function show(name, pixels, rows, of) {
  const [height, width] = [rows.length, rows[0].length];
  const same = pixels && pixels.width === width && pixels.height === height;
  shown = { name, width, height, pixels: same ? pixels : null, heatmap: Float32Array.from(rows.flat(2)), of };
  byId("size").textContent = `${height} x ${width} pixels (height x width)` +
    (same ? "" : "; the image itself cannot be shown");
  URL.revokeObjectURL(byId("npy").href);
  byId("npy").href = URL.createObjectURL(npy(shown.heatmap, height, width));
  byId("result").hidden = false;
  draw();
}

// Which classes an image is called, by their numbers: the most probable, or the labels above their thresholds.
function called(probabilities) {
  const { exclusive } = contract.classes;
  if (exclusive) return [probabilities.indexOf(Math.max(...probabilities))];
  return [...probabilities.keys()].filter((k) => probabilities[k] > contract.thresholds[k]);
}

// Lists several classes, the most probable first, each with a bar; one is chosen, and its map is shown.
function list(probabilities, chosen, choose) {
  const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
  const rows = order.map((k) => {
    const [row, radio] = [document.createElement("label"), document.createElement("input")];
    Object.assign(radio, { type: "radio", name: "class", value: k, checked: k === order[0] });
    radio.addEventListener("change", () => choose(k));
    const [name, bar, filled, value] = ["span", "span", "span", "output"].map((tag) => document.createElement(tag));
    name.textContent = name.title = contract.classes.names[k];
    name.className = chosen.includes(k) ? "name called" : "name";
    bar.className = "bar";
    filled.style.width = `${100 * probabilities[k]}%`;
    bar.append(filled);
    value.textContent = probabilities[k].toFixed(4);
    row.append(radio, name, bar, value);
    return row;
  });
  byId("classes").replaceChildren(byId("classes").firstElementChild, ...rows);
  byId("classes").scrollTop = 0;
  return choose(order[0]);
}

// The probabilities of several classes come first, then the map of the one that is chosen.
async function explainSeveral(file, instance, mine) {
  const { names, exclusive } = contract.classes;
  const [probabilities, pixels] = await Promise.all([
    predict(instance, { signature_name: outputs[0] }), decode(file),
  ]);
  if (mine !== turn) return;
  const chosen = called(probabilities);
  const answer = chosen.map((k) => names[k]).join(", ") || "none of the labels";
  const said = exclusive ? `${answer}. Its probability: ${probabilities[chosen[0]].toFixed(4)}` : answer;
  const maps = new Map();  // of the classes that were chosen before
  await list(probabilities, chosen, async (k) => {
    const mine = ++turn;
    say(`${file.name}: computing the map of ${names[k]} ...`);
    try {
      const options = { signature_name: outputs[1], parameters: { classes: [k] } };
      if (!maps.has(k)) maps.set(k, await predict(instance, options));
      if (mine !== turn) return;
      byId("one").textContent = names[k];
      byId("zero").textContent = `not ${names[k]}`;
      show(file.name, pixels, maps.get(k), names[k]);
      say(`${file.name}: ${said}`);
    } catch (error) {
      if (mine === turn) say(`${file.name}: ${error.message}`, true);
    }
  });
}

async function explain(file) {
  if (!file) return;
  const mine = ++turn;
  const { names } = contract.classes;
  say(`${file.name}: computing the ${binary() ? "heatmap" : "probabilities"} ...`);
  byId("result").hidden = true;
  try {
    const instance = { b64: base64(new Uint8Array(await file.arrayBuffer())) };
    if (!binary()) return await explainSeveral(file, instance, mine);
    const [answer, pixels] = await Promise.all([predict(instance), decode(file)]);
    if (mine !== turn) return;
    const [probability, rows] = outputs.map((name) => answer[name]);
    show(file.name, pixels, rows);
    const chosen = names[Number(probability > contract.thresholds[0])];
    say(`${file.name}: ${chosen}. Probability of ${names[1]}: ${probability.toFixed(4)}`);
  } catch (error) {
    if (mine === turn) say(`${file.name}: ${error.message}`, true);
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
  byId("classes").hidden = binary();
  byId("takes").hidden = plain() && !contract.pixels.per_image;
  byId("takes").textContent = `This model takes ${metadata.pixels}`;
  say("Ready.");
} catch (error) {
  say(`The server does not answer: ${error.message}`, true);
}
