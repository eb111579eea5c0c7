// The page of searches: what is asked, by which picture, and what is done with the answer.

import { bitsOf, squares } from "./bits.js";
import { fileName, fill, itemsOf, walk } from "./cards.js";
import { ask, by, make, themed, thumbnail } from "./dom.js";
import { viewer } from "./viewer.js";

const state = { about: null, query: null, items: [], version: "", times: {}, going: null };
const asked = []; // queries of this visit, for the browser's way back
const large = viewer((item) => searchItem(item.id));

function say(text, bad = false) {
  by("status").textContent = text;
  by("status").classList.toggle("bad", bad);
}

// ---------------------------------------------------------------- queries

// A query is { file } or { id }, or { sample: seed } for a sample without one.
function pose(query, remember = true) {
  state.query = query;
  state.times = {};
  if (remember) {
    asked.push(query);
    const address = query.id !== undefined ? `#item=${query.id}` : location.pathname;
    history.pushState({ at: asked.length - 1 }, "", address);
  }
  return run();
}

const searchItem = (id) => pose({ id });

function searchFile(file) {
  const most = state.about?.limits.upload;
  if (most && file.size > most) {
    say(`${file.name} has ${Math.ceil(file.size / 1e6)} MB: send up to ${Math.floor(most / 1e6)}`, true);
    return;
  }
  pose({ file, preview: URL.createObjectURL(file) });
}

function settings() {
  const k = Math.min(Math.max(Number(by("k").value) || 24, 1), Number(by("k").max));
  const fine = by("fine").checked && !by("fine").disabled;
  const wanted = Number(by("pool").value) || Number(by("pool").defaultValue);
  const usual = Math.min(Math.max(wanted, k), Number(by("pool").max));
  return { k, pool: fine ? usual : 0, usual, fine, narrowed: narrowing() };
}

// Among which items is searched, or with which recall: the service takes one of them.
function narrowing() {
  const label = by("label").value.trim();
  if (label) return { where: `label == '${label.replaceAll("'", "''")}'` };
  const recall = Number(by("recall").value);
  return recall ? { recall } : {};
}

async function run() {
  state.going?.abort();
  const going = (state.going = new AbortController());
  const query = state.query;
  const { k, pool, fine, narrowed } = settings();
  by("results").classList.add("waiting");
  by("results").setAttribute("aria-busy", "true");
  try {
    if (query.sample !== undefined) await sample(query.sample, k, going.signal);
    else {
      const answer = await ask("/search", {
        method: "POST",
        signal: going.signal,
        ...request(query, { k, pool, codes: true, ...narrowed }),
      });
      found(query, answer, fine);
    }
  } catch (error) {
    if (error.name === "AbortError") return;
    showQuery(query, null);
    by("results").replaceChildren();
    say(error.message, true);
  } finally {
    if (state.going === going) {
      by("results").classList.remove("waiting");
      by("results").removeAttribute("aria-busy");
    }
  }
}

function request(query, words) {
  if (query.file) {
    const form = new FormData();
    form.append("image", query.file, query.file.name || "pasted");
    for (const [name, value] of Object.entries(words)) form.append(name, value);
    return { body: form };
  }
  const body = JSON.stringify({ ids: [query.id], ...words });
  return { headers: { "content-type": "application/json" }, body };
}

async function sample(seed, count, signal) {
  const some = await ask(`/items?sample=${Math.min(count, 200)}&seed=${seed}`, { signal });
  state.items = itemsOf(some, state.about, false);
  state.version = some.version;
  showQuery({}, null);
  by("times").hidden = true;
  fill(by("results"), state.items, state.version, acts);
  say(state.items.length ? "A random sample. Click one to find what is near it." : "The index is empty.");
}

function found(query, answer, fine) {
  const [first] = answer.answers;
  state.version = answer.version;
  state.items = itemsOf(first, state.about, fine);
  state.times[fine ? "fine" : "coarse"] = answer.milliseconds;
  showQuery(query, first);
  showTimes(answer.milliseconds, fine);
  fill(by("results"), state.items, state.version, acts);
  if (query.id !== undefined) timeOther(query, fine);
  const count = state.items.length;
  say(count ? `${count} nearest of ${state.about.items.toLocaleString("en")}` : "Nothing was found.");
}

// How long the other way takes for the same item, to be shown beside.
async function timeOther(query, fine) {
  const { k, pool, usual, narrowed } = settings();
  const other = fine ? "coarse" : "fine";
  if (state.times[other] || by("fine").disabled) return;
  const words = { k, pool: pool ? 0 : usual, names: false, ...narrowed };
  try {
    const answer = await ask("/search", { method: "POST", ...request(query, words) });
    if (state.query !== query) return;
    state.times[other] = answer.milliseconds;
    showTimes(state.times[fine ? "fine" : "coarse"], fine);
  } catch {} // then it is not shown
}

// ---------------------------------------------------------------- what is shown of the query

function showQuery(query, answer) {
  const image = by("query-picture");
  const source = query.preview ?? (query.id !== undefined ? thumbnail(query.id, state.version, "whole=1") : null);
  by("query").classList.toggle("asked", source !== null);
  by("invitation").hidden = source !== null;
  image.hidden = source === null;
  if (source !== null && image.getAttribute("src") !== source) image.src = source;
  const own = state.items.find((item) => item.id === query.id);
  by("query-name").textContent = query.file?.name ?? (own ? (own.path ?? `item ${own.id}`) : "");
  const bits = answer?.code ? bitsOf(answer.code, state.about.bits) : null;
  by("comparison").hidden = bits === null;
  by("own-bits").replaceChildren(...(bits ? [squares(bits)] : []));
  compare(null);
}

function compare(item) {
  const differs = item?.differs;
  by("other-title").textContent = differs
    ? `${differs.length} of ${item.bits.length} differ in ${fileName(item.path) || `item ${item.id}`}`
    : "Point at a result to compare";
  by("other-bits").replaceChildren(...(differs ? [squares(item.bits, item.own)] : []));
}

function showTimes(times, fine) {
  const text = (one) => (one ? `${one.search.toFixed(1)} ms` : "–");
  const rows = [
    ["Coarse to fine", text(state.times.fine), fine],
    ["Codes alone", text(state.times.coarse), !fine],
  ];
  if (times.encode !== undefined) {
    rows.unshift(["Decoding", `${times.decode.toFixed(1)} ms`, true]);
    rows.splice(1, 0, ["Network", `${times.encode.toFixed(1)} ms`, true]);
  }
  by("times").hidden = false;
  by("times").replaceChildren(
    ...rows.flatMap(([name, time, now]) => [
      make("dt", { className: now ? "now" : "" }, name),
      make("dd", { className: now ? "now" : "" }, time),
    ]),
  );
}

// ---------------------------------------------------------------- what people do

const acts = {
  search: (item) => searchItem(item.id),
  show: (at) => large.show(state.items, state.version, at),
  compare,
};
const newSample = () => pose({ sample: Math.floor(Math.random() * 1e9) });

by("query-picture").addEventListener("load", () => {
  by("query-picture").classList.toggle("small", by("query-picture").naturalWidth <= 64);
});
by("query-picture").addEventListener("error", () => {
  by("query-picture").hidden = true; // of what is no picture there is none to show
});
by("file").addEventListener("change", () => {
  const [file] = by("file").files;
  if (file) searchFile(file);
  by("file").value = ""; // so that the same one can be chosen again
});
by("random").addEventListener("click", newSample);
by("label").addEventListener("input", () => {
  by("recall").disabled = by("label").value.trim() !== "";
});
by("options").addEventListener("change", () => state.query && run());
by("options").addEventListener("submit", (event) => event.preventDefault());

document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData?.files ?? [];
  if (file) {
    event.preventDefault();
    searchFile(file);
  }
});
const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
document.addEventListener("dragover", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  by("drop").hidden = false;
});
document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) by("drop").hidden = true;
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  by("drop").hidden = true;
  const [file] = event.dataTransfer?.files ?? [];
  if (file) searchFile(file);
});

document.addEventListener("keydown", (event) => {
  if (large.open() || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input")) return;
  const place = [...by("results").children].findIndex((card) => card.contains(event.target));
  if (event.key === " " && place >= 0 && event.target.matches(".pick")) acts.show(place);
  else if (event.key === "r") newSample();
  else if (event.key === "c" && !by("fine").disabled) {
    by("fine").checked = !by("fine").checked;
    run();
  } else if (!walk(by("results"), event.key)) return;
  event.preventDefault();
});
// A space that shows large must not also click.
document.addEventListener("keyup", (event) => {
  if (event.key === " " && event.target.matches?.(".pick")) event.preventDefault();
});

addEventListener("popstate", (event) => {
  const known = asked[event.state?.at];
  if (known) pose(known, false);
  else fromAddress(false);
});

function fromAddress(remember) {
  const item = /^#item=(\d{1,19})$/.exec(location.hash);
  const query = item ? { id: Number(item[1]) } : { sample: Math.floor(Math.random() * 1e9) };
  if (!remember) return pose(query, false);
  asked.push(query);
  history.replaceState({ at: asked.length - 1 }, "");
  return pose(query, false);
}

async function start() {
  themed(by("theme"));
  try {
    state.about = await ask("/info");
  } catch (error) {
    say(error.message, true);
    return;
  }
  const { about } = state;
  by("about").textContent =
    `${about.items.toLocaleString("en")} pictures · ${about.bits} bits · ${about.method}, ${about.network}`;
  if (about.features === null) {
    by("fine").checked = false;
    by("fine").disabled = true;
    by("pool").disabled = true;
  }
  // As an evaluation of the run found best.
  const pool = Math.min(about.pool, about.limits.pool);
  if (pool) by("pool").value = by("pool").defaultValue = pool;
  else by("fine").checked = false;
  by("labels").replaceChildren(...about.labels.map((label) => make("option", { value: label })));
  await fromAddress(true);
}

start();
