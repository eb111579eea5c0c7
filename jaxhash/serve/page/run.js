// The page of a run: its figures and curves, its bits, and what it gets right and wrong.

import { columns, lines, matrix } from "./charts.js";
import { distanceText } from "./cards.js";
import { ask, by, make, picture, themed } from "./dom.js";

const share = (value) => (value === null || value === undefined ? "–" : value.toFixed(3));

function put(id, ...children) {
  by(id).hidden = false;
  by(id).append(...children);
}

function figures(pairs) {
  by("figures").replaceChildren(
    ...pairs
      .filter(([, value]) => value !== null && value !== undefined)
      .map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, String(value)))),
  );
}

function rankings(found) {
  const cuts = [1, 10, 100];
  const head = ["", "mAP", "mAP at the top", ...cuts.map((k) => `P@${k}`)];
  const rows = found.map((one) => [
    one.pool ? `${one.title}, pool ${one.pool}` : one.title,
    share(one.mAP),
    `${share(one.mAP_at_top)} (${one.top})`,
    ...cuts.map((k) => share(one.precision_at[k])),
  ]);
  const line = (cells, tag) =>
    make("tr", {}, ...cells.map((cell, at) => make(at ? tag : "th", {}, cell)));
  by("rankings").hidden = false;
  by("rankings")
    .querySelector("table")
    .append(
      make("thead", {}, line(head, "th")),
      make("tbody", {}, ...rows.map((cells) => line(cells, "td"))),
    );
}

function gallery(id, rows, version) {
  if (!rows.length) return;
  const shown = (item, kind) =>
    make(
      "figure",
      { className: kind, title: item.path ?? "" },
      picture(item.id, version, ""),
      make("figcaption", {}, item.label ?? `item ${item.id}`),
    );
  put(
    id,
    ...rows.map((row) =>
      make(
        "div",
        { className: "strip-row", tabIndex: 0, role: "group", "aria-label": `Near ${row.query.label}` },
        shown(row.query, "own"),
        ...row.results.map((item) => {
          const figure = shown(item, item.right ? "right" : "wrong");
          figure.title = `${item.path ?? ""} ${distanceText(item)}`.trim();
          return figure;
        }),
      ),
    ),
  );
}

function evaluated(results) {
  by("split").textContent = results.split ?? `${results.images} images without labels`;
  if (results.rankings) {
    rankings(results.rankings);
    const best = results.rankings[0];
    figures([
      ["mAP", share(best.mAP ?? best.mAP_at_top)],
      ["Precision at 10", share(best.precision_at[10])],
      ["Classified right", results.accuracy === null ? null : share(results.accuracy)],
      ["Bits", results.bits],
      ["Distinct codes", results.distinct_codes],
      ["Entropy of a bit", share(results.bit_entropy)],
      ["Queries", results.queries],
      ["Database", results.database],
    ]);
    const series = results.rankings
      .filter((one) => one.curve.recall.length > 1)
      .map((one) => ({ name: one.title, x: one.curve.recall, y: one.curve.precision }));
    if (series.length) put("curve", ...lines(series, "recall", "precision", { least: 0, most: 1, legend: true }));
  } else {
    figures([
      [`Of ${results.neighbours} neighbours, by codes`, share(results.recall.codes)],
      [`In the pool of ${results.pool}`, share(results.recall.pool)],
      ["Bits", results.bits],
      ["Distinct codes", results.distinct_codes],
      ["Entropy of a bit", share(results.bit_entropy)],
    ]);
  }
}

function trained(training) {
  const shares = training.filter((one) => one.kind === "share");
  const losses = training.filter((one) => one.kind === "loss");
  if (losses.length) put("training", ...lines(losses, "step", "loss", { least: 0, legend: true }));
  if (shares.length) put("training", ...lines(shares, "step", "share", { least: 0, most: 1, legend: true }));
}

function statistics(bits) {
  const ones = [...bits.ones].sort((one, other) => one - other);
  by("balance").querySelector("p").textContent =
    `The share of items for which a bit is one, from ${ones[0].toFixed(2)} to ` +
    `${ones.at(-1).toFixed(2)}; 0.5 tells most. Of ${bits.items.toLocaleString("en")} items.`;
  put("balance", columns(bits.ones, "bit", "share of ones"));
  by("correlation").querySelector("p").textContent =
    `Between each two bits. They are worth ${bits.effective.toFixed(1)} independent ones of ` +
    `${bits.ones.length}.`;
  if (bits.correlation) put("correlation", matrix(bits.correlation, "correlation of the bits"));
}

async function start() {
  themed(by("theme"));
  try {
    const run = await ask("/run.json");
    by("title").textContent = run.name;
    by("about").textContent = run.words;
    const notes = [];
    if (run.results) evaluated(run.results);
    else notes.push("The run was not evaluated: `jaxhash evaluate` adds its figures.");
    trained(run.training);
    if (run.bits) statistics(run.bits);
    gallery("right", run.galleries.right, run.version);
    gallery("wrong", run.galleries.wrong, run.version);
    by("status").textContent = notes.join(" ");
    by("status").hidden = !notes.length;
  } catch (error) {
    by("status").textContent = error.message;
    by("status").classList.add("bad");
  }
}

start();
