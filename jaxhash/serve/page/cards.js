// The grid of results: cards that are clicked, pointed at and walked through by keys.

import { bitsOf, differing, strip } from "./bits.js";
import { make, picture } from "./dom.js";

export function distanceText(item) {
  if (item.distance === null) return "";
  return item.fine ? item.distance.toFixed(3) : `${item.distance} bits`;
}

export function fileName(path) {
  return path === null ? "" : path.split("/").pop();
}

// The items of an answer: what is known of each, with its bits and those that differ.
export function itemsOf(answer, about, fine) {
  const own = answer.code ? bitsOf(answer.code, about.bits) : null;
  return answer.ids.map((id, at) => {
    const bits = answer.codes ? bitsOf(answer.codes[at], about.bits) : null;
    return {
      id,
      fine,
      bits,
      own,
      distance: answer.distances ? answer.distances[at] : null,
      path: answer.paths[at],
      label: answer.labels[at],
      columns: answer.columns?.[at] ?? {},
      differs: own && bits ? differing(own, bits) : null,
    };
  });
}

export function fill(list, items, version, act) {
  const cards = items.map((item, at) => card(item, at, version, act));
  list.replaceChildren(...cards);
}

function card(item, at, version, act) {
  const title = item.label ?? (fileName(item.path) || `item ${item.id}`);
  const distance = distanceText(item);
  const bits = item.differs ? `, ${item.differs.length} bits differ` : "";
  const pick = make(
    "button",
    {
      type: "button",
      className: "pick",
      title: item.path ?? "",
      "aria-label": `${title}${distance && `, distance ${distance}`}${bits}: search with it`,
    },
    picture(item.id, version),
    item.differs ? strip(item.differs, item.bits.length) : null,
    make(
      "span",
      { className: "caption" },
      make("span", { className: "label" }, title),
      make("span", { className: "distance" }, distance),
      make("span", { className: "name" }, fileName(item.path)),
    ),
  );
  const large = make(
    "button",
    { type: "button", className: "plain large", "aria-label": `${title}: large view` },
    "⤢",
  );
  pick.addEventListener("click", () => act.search(item));
  large.addEventListener("click", () => act.show(at));
  const element = make("li", { className: "card" }, pick, large);
  element.addEventListener("pointerenter", () => act.compare(item));
  pick.addEventListener("focus", () => act.compare(item));
  return element;
}

// Arrow keys move between the cards of a grid; true where the key was one of these.
export function walk(list, key) {
  const picks = [...list.querySelectorAll("button.pick")];
  const at = picks.indexOf(document.activeElement);
  if (!picks.length) return false;
  const top = picks[0].getBoundingClientRect().top;
  const columns = picks.findIndex((one) => one.getBoundingClientRect().top > top + 1);
  const row = columns < 1 ? picks.length : columns;
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: row, ArrowUp: -row };
  if (!(key in steps)) return false;
  const next = at < 0 ? 0 : at + steps[key];
  if (next < 0 || next >= picks.length) return false;
  picks[next].focus();
  return true;
}
