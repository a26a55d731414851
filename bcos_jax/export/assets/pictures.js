// Pictures as the network reads them: upright, scaled and cropped as the manifest says, by the
// filters that PIL has, so that the same picture has the same explanation here and in Python.
"use strict";

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

// Name -> [half width, weight at a distance].
const FILTERS = {
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  hamming: [1, (x) => (Math.abs(x) < 1 ? sinc(x) * (0.54 + 0.46 * Math.cos(Math.PI * x)) : 0)],
  bicubic: [2, (x) => {
    const a = -0.5;
    const d = Math.abs(x);
    if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
    return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
  }],
  lanczos: [3, (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

// For each of `length` places: the first of the numbers it is made of, and their weights.
function taps(given, length, kind) {
  if (kind === "nearest") {
    return Array.from({ length }, (_, i) => [Math.floor(((i + 0.5) * given) / length), [1]]);
  }
  const [reach, weight] = FILTERS[kind];
  const ratio = given / length;
  const scale = Math.max(ratio, 1);
  return Array.from({ length }, (_, i) => {
    const center = (i + 0.5) * ratio;
    const first = Math.max(0, Math.trunc(center - reach * scale + 0.5));
    const last = Math.min(given, Math.trunc(center + reach * scale + 0.5));
    const raw = [];
    for (let j = first; j < last; j++) raw.push(weight((j - center + 0.5) / scale));
    const total = raw.reduce((a, b) => a + b, 0);
    return [first, raw.map((w) => w / total)];
  });
}

// Scales one axis of numbers [rows, given, inner], rounded to 8 bits, to [rows, length, inner].
function scaled(numbers, rows, given, inner, length, kind) {
  if (given === length) return numbers;
  const made = new Uint8ClampedArray(rows * length * inner);
  const plan = taps(given, length, kind);
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i < length; i++) {
      const [first, weights] = plan[i];
      const from = (row * given + first) * inner;
      const to = (row * length + i) * inner;
      for (let c = 0; c < inner; c++) {
        let sum = 0;
        for (let k = 0; k < weights.length; k++) sum += weights[k] * numbers[from + k * inner + c];
        made[to + c] = Math.floor(sum + 0.5);
      }
    }
  }
  return made;
}

// Half to even, as Python rounds.
function rounded(x) {
  const low = Math.floor(x);
  if (x - low !== 0.5) return Math.round(x);
  return low % 2 ? low + 1 : low;
}

// [width, height] that a picture is first scaled to; null to scale it straight to the size.
function firstSize(width, height, told) {
  if (told.resize === 0) return null;
  if (typeof told.resize === "number") {
    const shorter = Math.min(width, height);
    return [width, height].map((side) =>
      Math.max(told.resize, Math.trunc((told.resize * side) / shorter)));
  }
  if (!told.cover) return [told.resize[1], told.resize[0]];
  const ratio = Math.min(height / told.resize[0], width / told.resize[1]);
  return [rounded(width / ratio), rounded(height / ratio)];
}

// Colours of a picture on white: {width, height, pixels [height, width, colors]}, 8 bits.
function colorsOf(bitmap, colors) {
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  const rgba = context.getImageData(0, 0, width, height).data;
  const pixels = new Uint8ClampedArray(width * height * colors);
  for (let i = 0; i < width * height; i++) {
    const [r, g, b] = rgba.subarray(4 * i, 4 * i + 3);
    if (colors === 1) pixels[i] = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16;
    else pixels.set([r, g, b], 3 * i);
  }
  return { width, height, pixels };
}

// The array of a picture, [H, W, colors] in [0, 1], and in words what was done to it.
function readPicture(bitmap, told) {
  const { colors } = told;
  const [height, width] = told.size;
  let { pixels } = colorsOf(bitmap, colors);
  const whole = firstSize(bitmap.width, bitmap.height, told) ?? [width, height];
  pixels = scaled(pixels, bitmap.height, bitmap.width, colors, whole[0], told.interpolation);
  pixels = scaled(pixels, 1, bitmap.height, whole[0] * colors, whole[1], told.interpolation);
  const middle = told.center === "round" ? rounded : Math.floor;
  const left = middle((whole[0] - width) / 2);
  const top = middle((whole[1] - height) / 2);
  const array = new Float32Array(height * width * colors);
  for (let y = 0; y < height; y++) {
    for (let i = 0; i < width * colors; i++) {
      array[y * width * colors + i] = pixels[((y + top) * whole[0] + left) * colors + i] / 255;
    }
  }
  let words = `${bitmap.width} x ${bitmap.height} pixels`;
  if (whole[0] !== bitmap.width || whole[1] !== bitmap.height) {
    const bent = Math.abs(whole[0] * bitmap.height - whole[1] * bitmap.width) > Math.max(...whole);
    words += `, ${bent ? "stretched" : "resized"} to ${whole[0]} x ${whole[1]}`;
  }
  if (whole[0] !== width || whole[1] !== height) {
    words += `, cropped to the middle ${width} x ${height}`;
  }
  return { array, words };
}
