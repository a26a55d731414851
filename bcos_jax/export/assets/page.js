// The page: reads a picture, runs the network, draws its explanation. Nothing is sent anywhere.
"use strict";

const { manifest, examples } = NETWORK;
const [HEIGHT, WIDTH] = manifest.preprocess.size;
const COLORS = manifest.preprocess.colors;
const TOP = 5;
const element = (id) => document.getElementById(id);
const nameOf = (i) => manifest.labels[i] ?? `class ${i}`;

let session = null;
let current = null; // the array of the picture that is shown, and what was done to it
let asked = 0; // counts requests, so that an old answer is not drawn over a newer one

// Parts of a file, gzipped and written as base64, as bytes.
async function unpacked(parts) {
  const blobs = parts.map((part) => Uint8Array.from(atob(part), (c) => c.charCodeAt(0)));
  const stream = new Blob(blobs).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function openNetwork() {
  const code = new Blob([await unpacked(RUNTIME.module)], { type: "text/javascript" });
  ort.env.wasm.numThreads = 1; // more need headers that a file on the disk does not have
  ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(code) };
  ort.env.wasm.wasmBinary = (await unpacked(RUNTIME.wasm)).buffer;
  const model = await unpacked(NETWORK.model);
  return ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
}

function complain(text) {
  element("message").textContent = text;
  element("message").hidden = !text;
}

function say(text) {
  element("state").textContent = text;
  element("answer").setAttribute("aria-busy", String(Boolean(text)));
}

// Lets the page be painted before it computes.
const painted = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));

async function explain(target) {
  const mine = ++asked;
  say("Computing ...");
  await painted();
  try {
    const found = await session.run({
      images: new ort.Tensor("float32", current.array, [1, HEIGHT, WIDTH, COLORS]),
      target: new ort.Tensor("int32", Int32Array.of(target), [1]),
    });
    if (mine === asked) draw(found);
  } catch (error) {
    complain(`The network could not be run: ${error.message ?? error}`);
  }
  if (mine === asked) say("");
}

async function read(file) {
  complain("");
  try {
    const bitmap = await createImageBitmap(file);
    current = readPicture(bitmap, manifest.preprocess);
    bitmap.close();
  } catch {
    complain(`${file.name ?? "This"} is no picture that this browser can read.`);
    return;
  }
  await explain(-1);
}

// Draws [H, W] pixels, each (i) => [red, green, blue] in [0, 1].
function paint(id, pixel, label) {
  const canvas = element(id);
  canvas.width = WIDTH;
  canvas.height = HEIGHT;
  canvas.classList.toggle("fine", WIDTH >= 128);
  canvas.setAttribute("aria-label", label);
  const image = new ImageData(WIDTH, HEIGHT);
  for (let i = 0; i < WIDTH * HEIGHT; i++) {
    const [r, g, b] = pixel(i);
    image.data.set([255 * r + 0.5, 255 * g + 0.5, 255 * b + 0.5, 255], 4 * i);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// White behind the coloured explanation, or grey where most of the picture is dark.
function groundOf(array) {
  const light = Float32Array.from({ length: WIDTH * HEIGHT }, (_, i) => {
    const pixel = array.subarray(COLORS * i, COLORS * (i + 1));
    return pixel.reduce((a, b) => a + b, 0) / COLORS;
  }).sort();
  const darkest = light[0];
  const lightest = light[light.length - 1];
  return light[light.length >> 1] < darkest + 0.4 * (lightest - darkest) ? 0.5 : 1;
}

// The size of contributions at full colour.
function cutoffOf(contributions) {
  const sizes = Float32Array.from(contributions, Math.abs).sort();
  const place = 0.995 * (sizes.length - 1);
  const low = Math.floor(place);
  const high = Math.min(low + 1, sizes.length - 1);
  const cutoff = sizes[low] + (place - low) * (sizes[high] - sizes[low]);
  return cutoff || sizes[sizes.length - 1] || 1;
}

function draw(found) {
  const { array } = current;
  const target = found.explained.data[0];
  const name = nameOf(target);
  const contributions = found.contributions.data;
  paint("picture", (i) => (COLORS === 1 ? [array[i], array[i], array[i]]
    : array.subarray(3 * i, 3 * i + 3)), "The picture, as the network reads it");
  if (found.picture) {
    const seen = found.picture.data;
    const ground = groundOf(array);
    paint("explanation", (i) => {
      const alpha = seen[4 * i + 3];
      return [0, 1, 2].map((c) => alpha * seen[4 * i + c] + (1 - alpha) * ground);
    }, `What the network sees as ${name}`);
    element("seen").textContent = `What it sees as ${name}`;
  }
  const cutoff = cutoffOf(contributions);
  paint("map", (i) => {
    const share = Math.max(-1, Math.min(1, contributions[i] / cutoff));
    return [1 + Math.min(share, 0), 1 - Math.abs(share), 1 - Math.max(share, 0)];
  }, `Contributions of the pixels to ${name}`);
  list(found.probabilities.data, target);
  const value = found.value.data[0];
  const residual = found.residual.data[0];
  const total = value - residual;
  element("heading").textContent = `Why ${name}?`;
  element("sum").textContent =
    `The output for ${name}, ${number(value)}, is ${number(total)} from the pixels and ` +
    `${number(residual)} from the network's constants.`;
  element("reading").textContent = `The picture: ${current.words}.`;
  element("shown").hidden = element("choice").hidden = false;
}

function number(x) {
  const text = Math.abs(x) >= 1e-2 || x === 0 ? x.toFixed(2) : x.toExponential(1);
  return text.replace("-", "\u2212");
}

function list(probabilities, target) {
  const order = Array.from(probabilities.keys()).sort((a, b) => probabilities[b] - probabilities[a]);
  const shown = order.slice(0, TOP);
  if (!shown.includes(target)) shown.push(target);
  element("classes").replaceChildren(...shown.map((i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", String(i === target));
    const [name, share, meter, bar] = ["span", "span", "span", "i"].map((tag) =>
      document.createElement(tag));
    name.textContent = nameOf(i);
    share.className = "number";
    share.textContent = percent(probabilities[i]);
    meter.className = "meter";
    bar.style.width = `${100 * probabilities[i]}%`;
    meter.append(bar);
    button.append(name, share, meter);
    button.addEventListener("click", () => explain(i));
    return button;
  }));
}

function percent(share) {
  if (share > 0 && share < 0.001) return "< 0.1 %";
  return `${(100 * share).toFixed(1)} %`;
}

function chooseOther() {
  const text = element("other").value.trim().toLowerCase();
  const known = Array.from({ length: manifest.classes }, (_, i) => nameOf(i).toLowerCase());
  const target = known.indexOf(text);
  if (target < 0) return;
  element("other").value = "";
  explain(target);
}

function describe() {
  const { network, explanation } = manifest;
  element("about").textContent =
    `${network.name}, ${manifest.classes} classes: choose a picture, then a class to explain.`;
  element("kind").textContent = `${explanation[0].toUpperCase()}${explanation.slice(1)}.`;
  element("made").textContent = `Made by ${manifest.made_by}; run by onnxruntime-web ${RUNTIME.version}.`;
  element("colored").hidden = !manifest.outputs.some((each) => each.name === "picture");
  document.querySelector(".panels").classList.toggle("wide", !element("colored").hidden);
  element("labels").replaceChildren(...Array.from({ length: manifest.classes }, (_, i) => {
    const option = document.createElement("option");
    option.value = nameOf(i);
    return option;
  }));
}

async function readExample({ name, url }) {
  const bytes = Uint8Array.from(atob(url.split(",")[1]), (c) => c.charCodeAt(0));
  const blob = new Blob([bytes], { type: url.slice(5, url.indexOf(";")) });
  await read(Object.assign(blob, { name }));
}

function listen() {
  element("thumbs").replaceChildren(...examples.map((example) => {
    const button = document.createElement("button");
    const image = document.createElement("img");
    image.src = example.url;
    image.alt = example.name;
    button.type = "button";
    button.append(image);
    button.addEventListener("click", () => readExample(example));
    return button;
  }));
  element("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) read(file);
    event.target.value = "";
  });
  element("other").addEventListener("change", chooseOther);
  const over = (on) => document.body.classList.toggle("over", on);
  document.addEventListener("dragover", (event) => { event.preventDefault(); over(true); });
  document.addEventListener("dragleave", () => over(false));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    over(false);
    const [file] = event.dataTransfer.files;
    if (file) read(file);
  });
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (file) read(file);
  });
}

async function start() {
  describe();
  await painted();
  try {
    session = await openNetwork();
  } catch (error) {
    say("");
    complain(`This browser cannot run the network: ${error.message ?? error}`);
    return;
  }
  listen();
  say(examples.length ? "" : "Ready: choose a picture.");
  if (examples.length) await readExample(examples[0]);
}

start();
