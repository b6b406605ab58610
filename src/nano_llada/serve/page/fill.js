// Texts with gaps: made by selecting words, or taken from a template.

import * as api from "./api.js";
import { make } from "./dom.js";
import { Player } from "./player.js";
import { getLanguage, t } from "./words.js";
import { asked, newTrace, write } from "./write.js";

export const GAP = /⟨(\d{1,3})⟩/; // how a gap of so many tokens is written in the field
const WIRE = "___"; // and in a request
const LONGEST = 128;

/** `{texts, gaps}`: the texts around the gaps (one more than there are gaps) and their lengths. */
export function parted(source) {
  const parts = source.replaceAll(WIRE, "⟨4⟩").split(new RegExp(GAP, "u"));
  const texts = parts.filter((_, i) => i % 2 === 0);
  const gaps = parts.filter((_, i) => i % 2 === 1).map((length) => Math.min(Math.max(Number(length), 1), LONGEST));
  return { texts, gaps };
}

const TEMPLATES = {
  story: [
    "Once upon a time there was a ⟨2⟩ named ⟨1⟩. One day it went to ⟨3⟩. There it found ⟨4⟩. In the end, ⟨8⟩.",
    "从前有一只⟨2⟩，名叫⟨2⟩。有一天，它去了⟨3⟩，在那里找到了⟨4⟩。最后，⟨8⟩。",
  ],
  letter: ["Dear ⟨1⟩,\nthank you for the ⟨3⟩. I will use it to ⟨6⟩. See you ⟨2⟩!\nYour friend ⟨1⟩", "亲爱的⟨2⟩：\n谢谢你送的⟨3⟩。我会用它来⟨6⟩。⟨2⟩见！\n你的朋友⟨2⟩"],
  card: ["Name: ⟨1⟩\nAnimal: ⟨1⟩\nColour: ⟨1⟩\nLikes: ⟨4⟩\nLives in: ⟨3⟩", "名字：⟨2⟩\n动物：⟨2⟩\n颜色：⟨1⟩\n喜欢：⟨4⟩\n住在：⟨3⟩"],
  report: ["In the morning it is ⟨1⟩, in the evening ⟨1⟩. Please take ⟨3⟩, because ⟨6⟩.", "早上⟨2⟩，晚上⟨2⟩。请带上⟨3⟩，因为⟨6⟩。"],
};

/** What both views have: who writes, the request, the answer. */
class Filling {
  constructor(app) {
    this.app = app;
    this.note = make("p", { class: "soft", role: "status" });
    this.answer = make("div", { class: "answer" });
  }

  /** Draw the answer again, in another language. */
  again() {
    this.note.textContent = "";
    if (this.player && !this.player.live) this.show(new Player(this.player.trace, { bundled: this.app.bundled }));
  }

  show(player) {
    this.player = player;
    this.answer.replaceChildren(player.node);
  }

  async fill({ texts, gaps }) {
    this.note.textContent = "";
    if (!gaps.length) return void (this.note.textContent = t("no_gap"));
    const chosen = await this.app.needModel();
    if (!chosen || this.app.running) return;
    const model = chosen.infill ? chosen : this.app.models.find((one) => one.infill);
    if (!model) return void (this.note.textContent = t("no_infill"));
    if (model !== chosen) this.note.textContent = t("other_model", { model: model.id });
    const settings = this.app.settings.fields(model);
    delete settings.plain.max_tokens; // the gaps say how much is written
    const trace = newTrace(model, settings, { prompt: texts.join(WIRE), before: texts[0], after: texts.at(-1) });
    const player = new Player(trace, { quiet: true, bundled: this.app.bundled });
    this.show(player);
    player.node.scrollIntoView({ block: "nearest" });
    const done = await this.app.run((signal) => write(api.infill, { ...asked(model, settings), text: texts.join(WIRE), gaps }, player, signal));
    player.finish();
    if (done) this.app.say(t("filled", { text: trace.before + trace.text + trace.after }));
  }

  runButton(key, run) {
    return make("button", { type: "button", class: "main", "data-idle": key, onclick: () => (this.app.running ? this.app.stop() : run()) }, t(this.app.running ? "stop" : key));
  }
}

export class Fill extends Filling {
  draw(root) {
    this.text ??= t("fill_example");
    this.field = make("textarea", { id: "prompt", rows: 5, "aria-label": t("fill_label"), value: this.text });
    this.mirror = make("div", { class: "mirror", "aria-hidden": true });
    this.field.addEventListener("input", () => this.reflect());
    this.field.addEventListener("scroll", () => (this.mirror.scrollTop = this.field.scrollTop));
    this.length = make("input", { type: "number", id: "gap-length", min: 1, max: LONGEST, value: this.length?.value ?? 4 });
    const tools = make(
      "div",
      { class: "toolbar" },
      make("label", { for: "gap-length" }, t("gap_length")),
      this.length,
      make("button", { type: "button", id: "make-gap", onclick: () => this.makeGap() }, t("make_gap")),
      this.runButton("fill_run", () => this.fill(parted(this.field.value))),
    );
    const head = make("header", { class: "head" }, make("h1", {}, t("fill_head")), make("p", {}, t("fill_text")));
    root.replaceChildren(head, make("div", { class: "editor" }, this.mirror, this.field), tools, this.note, this.answer);
    this.reflect();
  }

  /** Draw the gaps as boxes behind the field. */
  reflect() {
    this.text = this.field.value;
    const pieces = this.text.split(new RegExp(`(${GAP.source})`, "u"));
    const nodes = [];
    for (let i = 0; i < pieces.length; i += 3) nodes.push(pieces[i], pieces[i + 1] ? make("mark", {}, pieces[i + 1]) : "");
    this.mirror.replaceChildren(...nodes, "\n");
  }

  makeGap() {
    const { selectionStart: start, selectionEnd: end, value } = this.field;
    if (start === end || !value.slice(start, end).trim()) {
      this.note.textContent = t("no_selection");
      this.field.focus();
      return;
    }
    const words = value.slice(start, end);
    const [left, right] = [words.length - words.trimStart().length, words.length - words.trimEnd().length];
    const length = Math.min(Math.max(Math.round(Number(this.length.value)) || 4, 1), LONGEST);
    this.field.setRangeText(`⟨${length}⟩`, start + left, end - right, "end");
    this.field.focus();
    this.note.textContent = "";
    this.reflect();
  }
}

export class Templates extends Filling {
  draw(root) {
    this.name ??= "story";
    const cards = Object.keys(TEMPLATES).map((name) => {
      const use = () => {
        this.name = name;
        this.player = null;
        this.answer.replaceChildren();
        this.app.show();
        document.getElementById(`template-${name}`).focus();
      };
      return make("button", { type: "button", class: "card", id: `template-${name}`, "aria-pressed": String(name === this.name), onclick: use }, make("strong", {}, t(`template_${name}`)), make("span", {}, source(name).replace(new RegExp(GAP, "gu"), "▢")));
    });
    const { texts, gaps } = parted(source(this.name));
    const numbers = gaps.map((length, i) => make("input", { type: "number", min: 1, max: LONGEST, value: length, "aria-label": t("gap", { n: i + 1 }) }));
    const inside = texts.flatMap((text, i) => [make("span", {}, text), numbers[i] ?? ""]);
    const now = () => ({ texts, gaps: numbers.map((field) => Math.min(Math.max(Math.round(Number(field.value)) || 1, 1), LONGEST)) });
    const head = make("header", { class: "head" }, make("h1", {}, t("templates_head")), make("p", {}, t("templates_text")));
    root.replaceChildren(
      head,
      make("div", { class: "cards four", role: "group", "aria-label": t("template_choose") }, ...cards),
      make("div", { class: "form" }, ...inside),
      make("div", { class: "toolbar" }, this.runButton("template_run", () => this.fill(now()))),
      this.note,
      this.answer,
    );
  }
}

const source = (name) => TEMPLATES[name][getLanguage() === "zh" ? 1 : 0];
