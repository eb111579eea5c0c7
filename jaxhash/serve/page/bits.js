// Codes in hexadecimal, most significant bit first, as bits and as pictures of them.

import { drawn } from "./dom.js";

export function bitsOf(code, count) {
  const bits = new Uint8Array(count);
  for (let at = 0; at < count; at++) {
    bits[at] = (parseInt(code[at >> 2], 16) >> (3 - (at & 3))) & 1;
  }
  return bits;
}

export function differing(one, other) {
  const places = [];
  for (let at = 0; at < one.length; at++) if (one[at] !== other[at]) places.push(at);
  return places;
}

const CELL = 10;
const GAP = 2;

// The bits as squares in rows; those that differ from another code's are marked.
export function squares(bits, other = null) {
  const columns = bits.length <= 64 ? 16 : bits.length <= 256 ? 32 : 64;
  const rows = Math.ceil(bits.length / columns);
  const step = CELL + GAP;
  const image = drawn("svg", {
    class: "bits",
    viewBox: `0 0 ${columns * step - GAP} ${rows * step - GAP}`,
    role: "img",
    "aria-label": other
      ? `${differing(bits, other).length} of ${bits.length} bits differ`
      : `${bits.length} bits, ${bits.reduce((sum, bit) => sum + bit, 0)} of them one`,
  });
  bits.forEach((bit, at) => {
    const differs = other !== null && bit !== other[at];
    const inset = differs && !bit ? 1 : 0; // an outline for a zero
    image.append(
      drawn("rect", {
        x: (at % columns) * step + inset,
        y: Math.floor(at / columns) * step + inset,
        width: CELL - 2 * inset,
        height: CELL - 2 * inset,
        rx: 2,
        class: differs ? (bit ? "differs" : "hollow") : bit ? "one" : "zero",
      }),
    );
  });
  return image;
}

// One line of all bits: where a neighbour differs from the query.
export function strip(places, count) {
  const path = places.map((at) => `M${at} 0h1v1h-1z`).join("");
  return drawn(
    "svg",
    { class: "strip", viewBox: `0 0 ${count} 1`, preserveAspectRatio: "none", "aria-hidden": "true" },
    drawn("rect", { class: "same", width: count, height: 1 }),
    drawn("path", { class: "differs", d: path }),
  );
}
