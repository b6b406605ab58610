// The canvas with its controls: a slider over passes, play, pause, step, speed, and saving.

import { Canvas, legend } from "./canvas.js";
import { button, download, icon, make } from "./dom.js";
import { gifOf } from "./picture.js";
import { Replay, writeTrace } from "./trace.js";
import { t } from "./words.js";

const SPEEDS = [0.25, 0.5, 1, 2, 4];
const INTERVAL = 420; // milliseconds a pass at speed 1

/** A name for the files of a trace, of letters that every file system takes. */
export const fileName = (trace, end) => `${(trace.model || "trace").replace(/[^\p{L}\p{N}._-]+/gu, "-").slice(0, 60)}.${end}`;

/** Tokens, passes and rate of a trace; what was not measured is left out. */
export function figures(trace, writing) {
  const passes = trace.frames.at(-1)?.pass ?? 0;
  const tokens = writing.written;
  const counted = (one, many, n) => t(n === 1 ? one : many, { n });
  const parts = [counted("one_token", "n_tokens", tokens), counted("one_pass", "n_passes", passes)];
  if (passes) parts.push(t("per_pass", { n: (tokens / passes).toFixed(2) }));
  if (writing.edits) parts.push(counted("one_edit", "n_edits", writing.edits));
  if (trace.seconds) parts.push(t("per_second", { n: (tokens / trace.seconds).toFixed(tokens / trace.seconds < 20 ? 1 : 0) }));
  return parts;
}

/**
 * Shows a trace, while it is written and afterwards. `bundled` gives the text of a replay file, where it can be made;
 * `quiet` hides the controls until the trace is finished; `bare` has none at all.
 */
export class Player {
  constructor(trace, { bundled = null, quiet = false, bare = false, legends = true } = {}) {
    Object.assign(this, { trace, bundled, live: quiet, count: 0, timer: null });
    this.replay = new Replay(trace.frames, trace.ends);
    this.canvas = new Canvas();
    this.slider = make("input", { type: "range", min: 0, max: 0, value: 0, class: "passes", oninput: () => this.seek(Number(this.slider.value)) });
    this.pass = make("output", { class: "pass" });
    this.toggle = button("play", t("play"), () => this.play(this.timer === null), { class: "round", "data-act": "play" });
    this.speed = make("select", { "aria-label": t("speed"), title: t("speed") }, ...SPEEDS.map((speed) => make("option", { value: speed, selected: speed === 1 }, `${speed}×`)));
    this.figures = make("p", { class: "figures" });
    this.note = make("p", { class: "soft", role: "status" });
    this.controls = make(
      "div",
      { class: "transport", role: "group", "aria-label": t("controls") },
      button("back", t("step_back"), () => this.step(-1), { class: "round", "data-act": "back" }),
      this.toggle,
      button("forward", t("step_forward"), () => this.step(1), { class: "round", "data-act": "forward" }),
      this.slider,
      this.pass,
      this.speed,
      this.saving(),
    );
    this.slider.setAttribute("aria-label", t("pass"));
    this.node = make("section", { class: "player", "aria-label": t("player") }, this.canvas.node);
    if (!bare) this.node.append(this.controls, legends ? legend() : "", this.figures, this.note);
    this.node.player = this;
    if (quiet) this.refresh();
    else this.finish();
  }

  saving() {
    const save = (key, act, run) => make("button", { type: "button", "data-act": act, onclick: () => this.save(run) }, t(key));
    const items = [save("save_json", "json", () => this.saveTrace()), save("save_gif", "gif", () => this.saveGif())];
    if (this.bundled) items.splice(1, 0, save("save_html", "html", () => this.saveReplay()));
    const menu = make("div", { class: "menu" }, ...items);
    const leave = ({ currentTarget: menu, relatedTarget: next }) => {
      if (next && !menu.contains(next)) menu.open = false;
    };
    return make("details", { class: "save", onfocusout: leave }, make("summary", { "aria-label": t("save"), title: t("save") }, icon("save")), menu);
  }

  async save(run) {
    this.node.querySelector(".save").open = false;
    try {
      await run();
    } catch {
      this.note.textContent = t("save_failed");
    }
  }

  saveTrace() {
    download(fileName(this.trace, "trace.json"), "application/json", writeTrace(this.trace));
  }

  async saveReplay() {
    download(fileName(this.trace, "html"), "text/html", await this.bundled(this.trace));
  }

  async saveGif() {
    this.note.textContent = t("gif_working");
    await new Promise((done) => setTimeout(done, 30)); // let the note be seen
    download(fileName(this.trace, "gif"), "image/gif", gifOf(this.trace, INTERVAL / Number(this.speed.value)));
    this.note.textContent = "";
  }

  /** Take one more frame; it is shown, unless the reader is looking at an earlier one. */
  feed(frame) {
    const atEnd = this.count === this.trace.frames.length;
    this.trace.frames.push(frame);
    if (atEnd) this.seek(this.trace.frames.length);
    else this.refresh();
  }

  /** The trace is complete. */
  finish() {
    this.live = false;
    this.seek(this.trace.frames.length);
    const parts = figures(this.trace, this.replay.at(this.count));
    this.figures.replaceChildren(...parts.map((part) => make("span", {}, part)));
  }

  seek(count) {
    this.count = Math.max(Math.min(1, this.trace.frames.length), Math.min(count, this.trace.frames.length)); // 1: the opening
    this.refresh();
  }

  step(by) {
    this.play(false);
    this.seek(this.count + by);
  }

  play(on) {
    clearTimeout(this.timer);
    this.timer = null;
    if (on) {
      if (this.count >= this.trace.frames.length) this.seek(1);
      const next = () => {
        this.seek(this.count + 1);
        this.timer = this.count < this.trace.frames.length && this.node.isConnected ? setTimeout(next, INTERVAL / Number(this.speed.value)) : null;
        if (this.timer === null) this.refresh();
      };
      this.timer = setTimeout(next, INTERVAL / Number(this.speed.value));
    }
    this.refresh();
  }

  refresh() {
    const { frames, before, after, text } = this.trace;
    const writing = this.replay.at(this.count);
    const last = frames.at(-1)?.pass ?? 0;
    const label = t("pass_of", { pass: writing.pass, passes: last });
    const answer = this.count === frames.length && !this.live ? text : "";
    this.canvas.draw(writing, { before, after, answer, label: `${t("text_at")} ${label}`, still: this.count === frames.length && !this.live });
    this.slider.min = Math.min(1, frames.length);
    this.slider.max = frames.length;
    this.slider.value = this.count;
    this.slider.setAttribute("aria-valuetext", label);
    this.pass.textContent = label;
    this.controls.hidden = this.live || frames.length === 0;
    const playing = this.timer !== null;
    const name = t(playing ? "pause" : "play");
    this.toggle.replaceChildren(icon(playing ? "pause" : "play"));
    this.toggle.setAttribute("aria-label", name);
    this.toggle.title = name;
    this.node.classList.toggle("done", !this.live);
  }

  /** A key pressed somewhere on the page; true if it meant something here. */
  key(event) {
    const act = { " ": () => this.play(this.timer === null), ArrowLeft: () => this.step(-1), ArrowRight: () => this.step(1), Home: () => this.step(-this.count), End: () => this.step(this.trace.frames.length) }[event.key];
    if (!act || this.live || this.trace.frames.length === 0) return false;
    act();
    return true;
  }
}
