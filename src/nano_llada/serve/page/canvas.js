// A text as it is written: a box for every place, coloured by how sure the model was, with its alternatives on demand.

import { make } from "./dom.js";
import { spelled } from "./trace.js";
import { t } from "./words.js";

export const STEPS = [0.5, 0.7, 0.9, 0.97]; // where one colour of the legend ends and the next begins

/** 0 (unsure) to 4 (sure), or null where no confidence was measured. */
export function sureness(confidence) {
  return confidence === null ? null : STEPS.filter((step) => confidence >= step).length;
}

const percent = (share) => (share > 0 && share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(share > 0 && share < 0.01 ? 1 : 0)} %`);

/** A token as it can be read in a list: spaces and line ends are visible. */
export function readable(text) {
  const plain = text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll("\uFFFD", "◌");
  return plain.trim() === plain && plain !== "" ? plain : plain.replaceAll(" ", "␣") || "∅";
}

/** The colours and what they mean. */
export function legend() {
  const steps = [0, ...STEPS].map((low, i) => {
    const name = i === 0 ? `< ${percent(STEPS[0])}` : `≥ ${percent(low)}`;
    return make("li", {}, make("i", { class: `swatch sure${i}`, "aria-hidden": true }), name);
  });
  const mask = make("li", {}, make("i", { class: "mask", "aria-hidden": true }), t("legend_mask"));
  const edited = make("li", {}, make("span", { class: "token edited" }, "abc"), t("legend_edited"));
  const head = make("li", { class: "soft" }, t("legend_confidence"));
  return make("ul", { class: "legend", "aria-label": t("legend") }, head, ...steps, mask, edited);
}

/** Draws a `Writing`. Elements of places that stay are kept, so that only what is new moves. */
export class Canvas {
  constructor() {
    this.text = make("div", { class: "text", role: "group", tabindex: "0" });
    this.bubble = make("div", { class: "bubble", hidden: true });
    this.spoken = make("div", { class: "spoken", "aria-live": "polite" });
    this.node = make("div", { class: "canvas" }, this.text, this.bubble, this.spoken);
    this.elements = new Map();
    this.places = new Map();
    this.text.addEventListener("pointerover", (event) => this.show(event.target));
    this.text.addEventListener("pointerleave", () => this.hide());
    this.text.addEventListener("focusin", (event) => this.show(event.target, true));
    this.text.addEventListener("focusout", () => this.hide());
    this.text.addEventListener("keydown", (event) => this.key(event));
    this.text.addEventListener("click", (event) => this.show(event.target));
  }

  /** The text before and after, the whole answer where it is known, and whether nothing is to be marked as new. */
  draw(writing, { before = "", after = "", answer = "", label = "", still = false } = {}) {
    const shown = writing.shown;
    const texts = spelled(shown, answer);
    const nodes = shown.flatMap((place, i) => this.elements_of(place, texts[i], !still && place.pass === writing.pass));
    if (before) nodes.unshift(this.fixed("before", before));
    if (after) nodes.push(this.fixed("after", after));
    this.arrange(nodes);
    this.places = new Map(shown.map((place) => [this.elements.get(place.key), place]));
    this.text.setAttribute("aria-label", label);
    this.keepHeight();
    this.hide();
  }

  /** Never lower than it was at this width: what is below must not jump while passes are looked through. */
  keepHeight() {
    const width = this.text.offsetWidth;
    if (width !== this.width) {
      this.text.style.removeProperty("min-height");
      Object.assign(this, { width, height: 0 });
    }
    this.height = Math.max(this.height, this.text.offsetHeight);
    if (this.height) this.text.style.setProperty("min-height", `${this.height}px`);
  }

  fixed(name, text) {
    const node = this.elements.get(name) ?? make("span", { class: "given" });
    this.elements.set(name, node);
    if (node.textContent !== text) node.textContent = text;
    return node;
  }

  /** A token, and in front of it its spaces, which have no colour. */
  elements_of(place, text, fresh) {
    const known = text === null ? "" : text.replaceAll("\uFFFD", "◌");
    const bare = known.trimStart() || known;
    const space = known.slice(0, known.length - bare.length);
    const node = this.element(place, bare, fresh);
    return space ? [this.fixed(`space${place.key}`, space), node] : [node];
  }

  element(place, known, fresh) {
    const node = this.elements.get(place.key) ?? make("span");
    this.elements.set(place.key, node);
    const hidden = place.token === null;
    if (node.textContent !== known) node.textContent = known;
    const sure = hidden ? null : sureness(place.token.confidence);
    const classes = [
      hidden ? "mask" : place.given ? "given" : "token",
      !place.given && sure !== null ? `sure${sure}` : "",
      fresh && !hidden && !place.given ? "fresh" : "",
      !hidden && place.earlier.length ? "edited" : "",
    ];
    const name = classes.filter(Boolean).join(" ");
    if (node.className !== name) node.className = name;
    if (!hidden && !place.given) node.tabIndex = -1;
    else node.removeAttribute("tabindex");
    return node;
  }

  arrange(nodes) {
    let next = this.text.firstChild; // walked along, since finding the i-th child takes i steps
    for (const node of nodes) {
      if (node === next) next = next.nextSibling;
      else this.text.insertBefore(node, next);
    }
    while (next) {
      const after = next.nextSibling;
      next.remove();
      next = after;
    }
  }

  key(event) {
    if (event.key === "Escape") return this.hide();
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    const all = [...this.text.querySelectorAll(".token")];
    const at = all.indexOf(document.activeElement);
    const next = at < 0 ? (step > 0 ? 0 : all.length - 1) : Math.min(Math.max(at + step, 0), all.length - 1);
    all[next]?.focus();
    event.preventDefault();
    event.stopPropagation();
  }

  show(node, spoken = false) {
    const place = this.places.get(node);
    if (!place || place.token === null || place.given) return this.hide();
    const { token, earlier, pass } = place;
    const rows = token.alternatives.map((other) =>
      make(
        "li",
        { class: other.text === token.text ? "chosen" : "" },
        make("span", {}, readable(other.text)),
        make("meter", { min: 0, max: 1, value: other.probability ?? 0, "aria-hidden": true }),
        make("span", { class: "soft" }, percent(other.probability ?? 0)),
      ),
    );
    const sure = token.confidence === null ? t("not_measured") : t("confident", { percent: percent(token.confidence) });
    const history = earlier.map((old) => make("p", {}, t("was", { text: readable(old.text), pass: old.pass ?? 0 })));
    const head = make("p", {}, make("strong", {}, readable(token.text)), ` ${sure} · ${t("at_pass", { pass: pass ?? 0 })}`);
    this.bubble.replaceChildren(head, ...history, rows.length ? make("ol", {}, ...rows) : "");
    this.bubble.hidden = false;
    const [box, around] = [node.getBoundingClientRect(), this.node.getBoundingClientRect()];
    const left = Math.min(box.left - around.left, around.width - this.bubble.offsetWidth);
    this.bubble.style.setProperty("left", `${Math.max(0, left)}px`);
    this.bubble.style.setProperty("top", `${box.bottom - around.top + 6}px`);
    if (spoken) {
      const others = token.alternatives.map((other) => `${readable(other.text)} ${percent(other.probability ?? 0)}`);
      this.spoken.textContent = [readable(token.text), sure, ...others].join(", ");
    }
  }

  hide() {
    this.bubble.hidden = true;
  }
}
