// Elements without HTML strings: text from a user, a model or a file is only ever a text node.

/** An element: `make("p", {class: "note", onclick: run}, "text", child)`. Keys with on... are listeners. */
export function make(tag, options = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "selected") node[name] = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const ICONS = {
  play: "M5 3.5v9l7.5-4.5z",
  pause: "M4.5 3.5h2.6v9H4.5zM8.9 3.5h2.6v9H8.9z",
  back: "M11.5 3.5v9L5.5 8zM4 3.5h1.5v9H4z",
  forward: "M4.5 3.5v9L10.5 8zM10.5 3.5H12v9h-1.5z",
  send: "M8 2.8 13 8l-1 1-3.3-3.4v7.6H7.3V5.6L4 9 3 8z",
  stop: "M4 4h8v8H4z",
  save: "M7.3 2.5h1.4v5.6l2.1-2.1 1 1L8 10.8 4.2 7l1-1 2.1 2.1zM3 12.2h10v1.4H3z",
};

/** A small drawing that screen readers skip. */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const picture = document.createElementNS(space, "svg");
  const path = document.createElementNS(space, "path");
  for (const [key, value] of Object.entries({ viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true" }))
    picture.setAttribute(key, value);
  path.setAttribute("d", ICONS[name]);
  path.setAttribute("fill", "currentColor");
  picture.append(path);
  return picture;
}

/** A button with a drawing and a name, which is shown or only spoken. */
export function button(name, label, onclick, options = {}) {
  const { words = false, ...rest } = options;
  const text = words ? make("span", {}, label) : null;
  const spoken = words ? {} : { "aria-label": label, title: label };
  return make("button", { type: "button", onclick, ...spoken, ...rest }, name ? icon(name) : null, text);
}

/** Offer bytes or text as a file. */
export function download(name, type, content) {
  const address = URL.createObjectURL(new Blob([content], { type }));
  const link = make("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
