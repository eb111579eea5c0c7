// One item in large, beside the bits of the query.

import { squares } from "./bits.js";
import { distanceText } from "./cards.js";
import { by, make, thumbnail } from "./dom.js";

export function viewer(search) {
  const dialog = by("viewer");
  const image = by("viewer-picture");
  let items = [];
  let version = "";
  let at = 0;

  function show(next) {
    if (next < 0 || next >= items.length) return;
    at = next;
    const item = items[at];
    image.classList.remove("small");
    image.src = thumbnail(item.id, version, "whole=1");
    image.alt = item.label ?? item.path ?? `item ${item.id}`;
    by("viewer-label").textContent = item.label ?? `Item ${item.id}`;
    by("viewer-name").textContent = item.path ?? `item ${item.id}`;
    const distance = distanceText(item);
    const apart = item.differs ? `${item.differs.length} of ${item.bits.length} bits differ` : "";
    by("viewer-distance").textContent = [distance && `distance ${distance}`, apart]
      .filter(Boolean)
      .join(" · ");
    by("viewer-columns").replaceChildren(
      ...Object.entries(item.columns).flatMap(([name, value]) => [
        make("dt", {}, name),
        make("dd", {}, value === null ? "–" : String(value)),
      ]),
    );
    by("viewer-bits").replaceChildren(...(item.bits ? [squares(item.bits, item.own)] : []));
    by("viewer-before").disabled = at === 0;
    by("viewer-after").disabled = at === items.length - 1;
    if (!dialog.open) dialog.showModal();
  }

  image.addEventListener("load", () => {
    image.classList.toggle("small", image.naturalWidth <= 64);
  });
  by("viewer-close").addEventListener("click", () => dialog.close());
  by("viewer-before").addEventListener("click", () => show(at - 1));
  by("viewer-after").addEventListener("click", () => show(at + 1));
  by("viewer-search").addEventListener("click", () => {
    dialog.close();
    search(items[at]);
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // outside of it
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") show(at - 1);
    if (event.key === "ArrowRight") show(at + 1);
  });
  return {
    open: () => dialog.open,
    show(newItems, newVersion, place) {
      items = newItems;
      version = newVersion;
      show(place);
    },
  };
}
