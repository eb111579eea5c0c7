// Elements and the service: text only ever becomes text, never markup.

export const by = (id) => document.getElementById(id);

// An element with properties and children; strings become text nodes.
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

export function drawn(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// The answer of the service; an Error with its reason where it refuses.
export async function ask(address, options = {}) {
  let reply;
  try {
    reply = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The service does not answer: is it still running?");
  }
  const text = await reply.text();
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    throw new Error(`The service answered with status ${reply.status}`);
  }
  if (!reply.ok) throw new Error(answer.error ?? `status ${reply.status}`);
  return answer;
}

export const thumbnail = (id, version, words = "size=256") =>
  `/thumbnails/${id}?${words}&v=${encodeURIComponent(version)}`;

// A picture of an item; tiny ones are enlarged pixel by pixel.
export function picture(id, version, className = "thumb") {
  const image = make("img", { className, alt: "", loading: "lazy", decoding: "async" });
  image.addEventListener("load", () => {
    image.classList.toggle("small", image.naturalWidth <= 64);
  });
  image.addEventListener("error", () => {
    image.classList.add("missing");
    image.alt = "no picture";
  });
  image.src = thumbnail(id, version);
  return image;
}

// Light and dark: the system's choice, until somebody makes another.
export function themed(button) {
  const root = document.documentElement;
  let chosen = null;
  try {
    chosen = localStorage.getItem("theme");
  } catch {} // storage may be forbidden
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;
  button.addEventListener("click", () => {
    const dark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try {
      localStorage.setItem("theme", root.dataset.theme);
    } catch {}
    root.dispatchEvent(new Event("themed"));
  });
}
