// Charts as SVG: lines over an axis, columns, and a matrix of colours.

import { drawn, make } from "./dom.js";

const WIDTH = 460;
const HEIGHT = 280;
const LEFT = 46;
const BOTTOM = 34;
const TOP = 10;

// Round numbers that divide a range in about so many parts.
export function ticks(least, most, parts = 4) {
  const raw = (most - least || 1) / parts;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 2.5, 5, 10].find((one) => one * power >= raw);
  const found = [];
  for (let at = Math.ceil(least / step - 1e-9); at * step <= most + step * 1e-9; at++) {
    found.push(Number((at * step).toPrecision(12)));
  }
  return found;
}

function short(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${value / 1e6}M`;
  if (size >= 1e4) return `${value / 1e3}k`;
  return String(value);
}

function frame(across, up, x, y, xs, ys) {
  const lines = [];
  for (const value of ys) {
    lines.push(drawn("line", { class: "rule", x1: LEFT, x2: WIDTH, y1: y(value), y2: y(value) }));
    lines.push(
      drawn("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)),
    );
  }
  for (const value of xs) {
    lines.push(
      drawn("text", { x: x(value), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, short(value)),
    );
  }
  lines.push(
    drawn("text", { x: (LEFT + WIDTH) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, across),
    drawn(
      "text",
      { transform: `translate(11 ${(HEIGHT - BOTTOM) / 2}) rotate(-90)`, "text-anchor": "middle" },
      up,
    ),
  );
  return lines;
}

// series: [{ name, x: [...], y: [...] }]; box: { least, most } of y, where it is to be fixed.
export function lines(series, across, up, box = {}) {
  const all = (axis) => series.flatMap((one) => one[axis]);
  const [x0, x1] = [Math.min(...all("x")), Math.max(...all("x"))];
  const y0 = box.least ?? Math.min(...all("y"));
  const y1 = box.most ?? Math.max(...all("y"));
  const x = (value) => LEFT + ((value - x0) / (x1 - x0 || 1)) * (WIDTH - LEFT - 8);
  const y = (value) => HEIGHT - BOTTOM - ((value - y0) / (y1 - y0 || 1)) * (HEIGHT - BOTTOM - TOP);
  const paths = series.map((one, at) =>
    drawn("path", {
      class: `c${at % 4}`,
      d: one.x.map((value, i) => `${i ? "L" : "M"}${x(value).toFixed(1)} ${y(one.y[i]).toFixed(1)}`).join(""),
    }),
  );
  const image = drawn(
    "svg",
    {
      class: "chart",
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      role: "img",
      "aria-label": `${up} over ${across}: ${series.map((one) => one.name).join(", ")}`,
    },
    ...frame(across, up, x, y, ticks(x0, x1), ticks(y0, y1)),
    ...paths,
  );
  if (series.length < 2 && !box.legend) return [image];
  const legend = series.map((one, at) =>
    make(
      "span",
      {},
      drawn("svg", { viewBox: "0 0 22 8" }, drawn("path", { class: `c${at % 4}`, d: "M0 4h22" })),
      one.name,
    ),
  );
  return [image, make("div", { className: "legend" }, ...legend)];
}

// A column for each value from 0 to 1, beside the middle.
export function columns(values, across, up) {
  const x = (at) => LEFT + (at / values.length) * (WIDTH - LEFT - 8);
  const y = (value) => HEIGHT - BOTTOM - value * (HEIGHT - BOTTOM - TOP);
  const width = Math.max((WIDTH - LEFT - 8) / values.length - 1, 0.6);
  const bars = values.map((value, at) =>
    drawn("rect", {
      class: "bar-one",
      x: x(at),
      width,
      y: Math.min(y(value), y(0.5)),
      height: Math.max(Math.abs(y(value) - y(0.5)), 0.8),
    }),
  );
  return drawn(
    "svg",
    { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": up },
    ...frame(across, up, x, y, ticks(0, values.length), [0, 0.25, 0.5, 0.75, 1]),
    ...bars,
  );
}

// A square matrix of -100..100, null where there is none: one colour each way.
export function matrix(rows, label) {
  const canvas = make("canvas", { className: "heat", width: rows.length, height: rows.length });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  const paint = () => {
    const dark = getComputedStyle(document.body).colorScheme;
    const isDark =
      dark === "dark" || (dark !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
    const ground = isDark ? [27, 31, 35] : [255, 255, 255];
    const [more, less] = isDark
      ? [[85, 199, 188], [255, 154, 87]]
      : [[11, 122, 117], [217, 72, 15]];
    const context = canvas.getContext("2d");
    const image = context.createImageData(rows.length, rows.length);
    rows.forEach((row, i) =>
      row.forEach((value, j) => {
        const share = Math.min(Math.abs(value ?? 0) / 100, 1) ** 0.7;
        const end = (value ?? 0) > 0 ? more : less;
        const at = 4 * (i * rows.length + j);
        for (let c = 0; c < 3; c++) image.data[at + c] = ground[c] + share * (end[c] - ground[c]);
        image.data[at + 3] = 255;
      }),
    );
    context.putImageData(image, 0, 0);
  };
  paint();
  document.documentElement.addEventListener("themed", paint);
  return canvas;
}
