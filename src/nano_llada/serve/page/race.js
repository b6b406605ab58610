// The same prompt written in several ways: measured one after another, replayed side by side.

import * as api from "./api.js";
import { legend } from "./canvas.js";
import { composer } from "./chat.js";
import { button, icon, make } from "./dom.js";
import { Player } from "./player.js";
import { kindName, modesOf, presetsOf } from "./settings.js";
import { Replay } from "./trace.js";
import { t } from "./words.js";
import { asked, newTrace, write } from "./write.js";

const MOST = 4;
const WATCHABLE = 6; // seconds that the slowest lane takes on the screen, at least

export class Race {
  constructor(app) {
    this.app = app;
    this.lanes = [];
    this.draft = null;
  }

  /** Every model in every mode that it has, as it is set and by every preset. */
  choices() {
    return this.app.models.flatMap((model) => {
      const modes = modesOf(model).length ? modesOf(model) : [null];
      return modes.flatMap((mode) => [null, ...Object.keys(presetsOf(model, mode))].map((preset) => ({ model, mode, preset })));
    });
  }

  /** As it is called in the lists and in the table. */
  name({ model, mode, preset }) {
    return [model.id, mode && kindName(mode), preset && t(preset)].filter(Boolean).join(" · ");
  }

  prepare() {
    const all = this.choices();
    if (this.lanes.length || !all.length) return;
    const way = ({ model, mode }) => (mode ?? model.kind).replace("editing", "block");
    const first = ["ar", "block", "speculative", "canvas"].map((name) => all.find((choice) => way(choice) === name)).filter(Boolean);
    const presets = all.filter((choice) => choice.preset && choice.model === all[0].model && choice.mode === all[0].mode);
    const lanes = first.length > 1 ? first : presets.length ? presets : all;
    this.lanes = lanes.slice(0, 3).map((choice) => ({ choice, player: null }));
  }

  draw(root) {
    this.prepare();
    this.draft ??= t("example_1");
    const { field, grow } = composer("prompt", () => this.start(), this.draft);
    field.addEventListener("input", () => (this.draft = field.value));
    this.start_button = make("button", { type: "button", class: "main", "data-idle": "start_race", onclick: () => (this.app.running ? this.app.stop() : this.start()) }, t(this.app.running ? "stop" : "start_race"));
    const form = make("form", { class: "composer", onsubmit: (event) => event.preventDefault() }, field, this.start_button);
    this.grid = make("div", { class: "lanes" }, ...this.lanes.map((lane, i) => this.lane(lane, i)));
    const more = this.lanes.length < MOST && this.app.models.length ? make("button", { type: "button", class: "plain", onclick: () => this.add() }, t("add_lane")) : "";
    this.results = make("div", { class: "results" });
    const head = make("header", { class: "head" }, make("h1", {}, t("race_head")), make("p", {}, t("race_text")));
    root.replaceChildren(head, form, this.grid, more, this.results);
    grow();
    if (this.lanes.length && this.lanes.every((lane) => lane.row)) this.finish();
  }

  lane(lane, i) {
    const all = this.choices();
    const select = make("select", { "aria-label": t("lane", { n: i + 1 }) }, ...all.map((choice, j) => make("option", { value: j, selected: this.name(choice) === this.name(lane.choice) }, this.name(choice))));
    select.addEventListener("change", () => {
      Object.assign(lane, { choice: all[select.value], player: null, row: null });
      this.redraw(i);
    });
    const close = this.lanes.length > 2 ? button(null, t("remove_lane", { n: i + 1 }), () => (this.lanes.splice(i, 1), this.redraw(i)), { class: "cross" }) : "";
    const kind = make("p", { class: "soft small" }, kindName(lane.choice.mode ?? lane.choice.model.kind));
    lane.stage = make("div", { class: "stage" }, lane.player?.node ?? "");
    lane.meter = make("p", { class: "figures" });
    return make("section", { class: "lane", "aria-label": t("lane", { n: i + 1 }) }, make("div", { class: "lane-head" }, select, close), kind, lane.stage, lane.meter);
  }

  add() {
    const all = this.choices();
    this.lanes.push({ choice: all[this.lanes.length % all.length], player: null });
    this.redraw(this.lanes.length - 1);
  }

  /** With the focus where it was. */
  redraw(i) {
    this.app.show();
    this.grid.querySelectorAll("select")[Math.min(i, this.lanes.length - 1)]?.focus();
  }

  async start() {
    const prompt = this.draft.trim();
    if (!prompt || this.app.running || !(await this.app.needModel())) return;
    if (!this.lanes.length) this.app.show();
    clearInterval(this.timer);
    this.results.replaceChildren();
    const seed = Math.floor(Math.random() * 2 ** 31);
    for (const lane of this.lanes) {
      const { model, mode, preset } = lane.choice;
      const settings = this.app.settings.fields(model, mode, preset);
      settings.plain.seed = seed;
      lane.player = new Player(newTrace(model, settings, { prompt }), { quiet: true, bare: true });
      Object.assign(lane, { row: null, settings });
      lane.stage.replaceChildren(lane.player.node);
      lane.meter.replaceChildren();
    }
    const done = await this.app.run(async (signal) => {
      for (const lane of this.lanes) await this.one(lane, prompt, signal);
    });
    if (done) {
      this.app.say(t("race_done"));
      this.finish(true);
    }
  }

  async one(lane, prompt, signal) {
    const { model } = lane.choice;
    this.app.say(t("race_running", { model: this.name(lane.choice) }));
    lane.stage.parentNode.classList.add("running");
    try {
      const body = asked(model, lane.settings);
      const messages = [{ role: "user", content: prompt }];
      const { first } = model.answers ? await write(api.chat, { ...body, messages }, lane.player, signal) : await write(api.complete, { ...body, prompt }, lane.player, signal);
      lane.player.finish();
      const { trace } = lane.player;
      const tokens = new Replay(trace.frames, trace.ends).at(trace.frames.length).written;
      const passes = trace.frames.at(-1)?.pass ?? 0;
      lane.row = { tokens, passes, seconds: trace.seconds, first };
    } finally {
      lane.stage.parentNode.classList.remove("running");
    }
  }

  /** The table, and one clock for all lanes. */
  finish(play = false) {
    const rows = this.lanes.map(({ row, choice }) => ({ ...row, name: this.name(choice) }));
    const best = Math.max(...rows.map((row) => row.tokens / row.seconds));
    const line = (row) => {
      const rate = row.tokens / row.seconds;
      const cells = [row.tokens, row.passes, (row.tokens / Math.max(row.passes, 1)).toFixed(2), row.seconds.toFixed(2), rate.toFixed(0), row.first === null ? "" : (1000 * row.first).toFixed(0)];
      const name = make("th", { scope: "row" }, row.name);
      return make("tr", { class: rate === best ? "best" : "" }, name, ...cells.map((cell) => make("td", {}, String(cell))));
    };
    const columns = ["model", "tokens", "passes", "per_pass", "seconds", "rate", "first"].map((name) => make("th", { scope: "col" }, t(`col_${name}`)));
    const table = make("table", {}, make("caption", { class: "spoken" }, t("result")), make("thead", {}, make("tr", {}, ...columns)), make("tbody", {}, ...rows.map(line)));
    const scroll = make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t("result") }, table);
    this.results.replaceChildren(this.clock(Math.max(...rows.map((row) => row.seconds)), play), legend(), scroll, make("p", { class: "soft small" }, t("measured")));
  }

  clock(seconds, play) {
    const slow = Math.max(1, Math.ceil(WATCHABLE / Math.max(seconds, 0.001)));
    const slider = make("input", { type: "range", min: 0, max: 1000, value: 1000, "aria-label": t("clock") });
    const shown = make("output", { class: "pass" });
    const speed = make("select", { "aria-label": t("speed") }, make("option", { value: slow }, slow === 1 ? t("true_speed") : t("slowed", { n: slow })), slow === 1 ? "" : make("option", { value: 1 }, t("true_speed")));
    const seek = (now) => {
      for (const { player } of this.lanes) player.seek(player.trace.frames.filter((frame) => (frame.ms ?? 0) <= 1000 * now + 0.05).length);
      slider.value = seconds ? (1000 * now) / seconds : 1000;
      shown.textContent = t("clock_at", { now: now.toFixed(2), all: seconds.toFixed(2) });
      slider.setAttribute("aria-valuetext", shown.textContent);
    };
    let now = seconds;
    const toggle = button("play", t("play"), () => run(!this.timer), { class: "round", "data-act": "play" });
    const run = (on) => {
      clearInterval(this.timer);
      this.timer = null;
      if (on) {
        if (now >= seconds) now = 0;
        let before = performance.now();
        this.timer = setInterval(() => {
          const tick = performance.now();
          now = Math.min(seconds, now + (tick - before) / 1000 / Number(speed.value));
          before = tick;
          seek(now);
          if (now >= seconds || !slider.isConnected) run(false);
        }, 40);
      }
      const name = t(on ? "pause" : "play");
      toggle.replaceChildren(icon(on ? "pause" : "play"));
      toggle.setAttribute("aria-label", name);
      toggle.title = name;
    };
    slider.addEventListener("input", () => {
      run(false);
      now = (seconds * Number(slider.value)) / 1000;
      seek(now);
    });
    seek(now);
    if (play && !matchMedia("(prefers-reduced-motion: reduce)").matches) run(true);
    return make("div", { class: "transport", role: "group", "aria-label": t("controls") }, toggle, slider, shown, speed);
  }
}
