// The conversation: questions, answers that fill in, and their replays.

import * as api from "./api.js";
import { button, make } from "./dom.js";
import { Player } from "./player.js";
import { t } from "./words.js";
import { asked, newTrace, write } from "./write.js";

const EXAMPLES = ["example_1", "example_2", "example_3"];

/** A text field that grows, and sends with Enter. */
export function composer(label, send, value = "") {
  const field = make("textarea", { id: "prompt", rows: 1, "aria-label": t(label), placeholder: t("prompt_hint"), value });
  const grow = () => {
    field.style.setProperty("height", "auto");
    field.style.setProperty("height", `${Math.min(field.scrollHeight, 220)}px`);
  };
  field.addEventListener("input", grow);
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  return { field, grow };
}

export class Chat {
  constructor(app) {
    this.app = app;
    this.turns = []; // {role, content, model, player}
  }

  draw(root) {
    this.log = make("div", { class: "log", role: "region", "aria-label": t("conversation") }, ...this.turns.map((turn) => this.turnNode(turn)));
    this.turns.forEach((turn, i) => turn.node.classList.toggle("past", i < this.turns.length - 1));
    const { field, grow } = composer("prompt", () => this.send(), this.draft ?? "");
    this.field = field;
    field.addEventListener("input", () => (this.draft = field.value));
    this.grow = grow;
    this.button = button("send", t("send"), () => (this.app.running ? this.app.stop() : this.send()), { class: "round main" });
    this.bar = make("form", { class: "composer", onsubmit: (event) => event.preventDefault() }, field, this.button);
    this.fresh = make("button", { type: "button", class: "plain", onclick: () => this.clear() }, t("clear"));
    root.replaceChildren(this.turns.length ? "" : this.welcome(), this.log, make("div", { class: "dock" }, this.bar, this.turns.length ? this.fresh : ""));
    this.busy();
  }

  busy() {
    const running = Boolean(this.app.running);
    const name = t(running ? "stop" : "send");
    this.button.replaceChildren(button(running ? "stop" : "send", name, () => {}).firstChild);
    this.button.setAttribute("aria-label", name);
    this.button.title = name;
  }

  welcome() {
    const cards = EXAMPLES.map((key) => {
      const use = () => {
        this.draft = t(key);
        this.send();
      };
      return make("button", { type: "button", class: "card", onclick: use }, make("strong", {}, t(`${key}_head`)), make("span", {}, t(key)));
    });
    const head = make("h1", {}, t("welcome"));
    return make("section", { class: "welcome" }, demonstration(), head, make("p", {}, t("welcome_text")), make("div", { class: "cards", role: "group", "aria-label": t("examples") }, ...cards));
  }

  clear() {
    this.app.stop();
    this.turns = [];
    this.draft = "";
    this.app.show();
    this.field.focus();
  }

  turnNode(turn) {
    if (turn.node) return turn.node;
    const mine = turn.role === "user";
    const name = make("h2", { class: "who" }, mine ? t("you") : turn.model);
    turn.node = make("article", { class: mine ? "turn mine" : "turn" }, name, mine ? make("p", { class: "said" }, turn.content) : turn.player.node);
    if (!mine) turn.node.append(this.reopen(turn.node));
    return turn.node;
  }

  /** The button of an earlier answer that shows its controls, which would be many in a long conversation. */
  reopen(node) {
    const toggle = (event) => event.target.setAttribute("aria-expanded", String(node.classList.toggle("opened")));
    return make("button", { type: "button", class: "plain reopen", "aria-expanded": "false", onclick: toggle }, t("replay_of"));
  }

  /** Draw everything again, in another language. */
  again() {
    for (const turn of this.turns) {
      if (turn.player?.live) continue;
      if (turn.player) turn.player = new Player(turn.player.trace, { bundled: this.app.bundled });
      turn.node = null;
      this.turnNode(turn);
      if (turn.verdict) this.verdict(turn);
    }
  }

  async send() {
    const content = (this.draft ?? "").trim();
    if (!content || this.app.running) return;
    const model = await this.app.needModel();
    if (!model) return;
    this.draft = "";
    const settings = this.app.settings.fields(model);
    const trace = newTrace(model, settings, { prompt: content });
    const player = new Player(trace, { quiet: true, bundled: this.app.bundled });
    this.turns.push({ role: "user", content }, { role: "assistant", model: model.id, player, content: "" });
    this.app.show();
    this.field.focus();
    const turn = this.turns.at(-1);
    turn.node.scrollIntoView({ block: "nearest" });
    const said = this.turns.slice(0, -1).filter((one) => one.content).map(({ role, content: text }) => ({ role, content: text }));
    const messages = model.turns ? said : said.slice(-1);
    const body = asked(model, settings);
    const done = await this.app.run(async (signal) => {
      if (model.answers) await write(api.chat, { ...body, messages }, player, signal);
      else await write(api.complete, { ...body, prompt: content }, player, signal);
    });
    if (!done && !trace.frames.length) return this.takeBack(content);
    turn.content = trace.text;
    player.finish();
    if (!done) turn.node.append(make("p", { class: "soft" }, t(this.app.stopped ? "stopped" : "unfinished")));
    else this.app.say(t("answered", { model: model.id, text: trace.text }));
    turn.node.scrollIntoView({ block: "nearest" });
    if (done && model.check) await this.mark(turn);
  }

  /** Nothing was answered: the message is in the field again. */
  takeBack(content) {
    this.turns.splice(-2);
    this.draft = content;
    this.app.show();
    this.grow();
    this.field.focus();
  }

  /** Where the server has a verifier: whether the story contradicts itself. */
  async mark(turn) {
    turn.verdict = await api.check(turn.content).catch(() => null);
    this.verdict(turn);
    turn.node.scrollIntoView({ block: "nearest" }); // or it would be behind the field
  }

  verdict({ node, verdict }) {
    const words = ["coherent", "contradiction", "not_understood"].find((known) => known === verdict?.verdict);
    if (words) node.append(make("p", { class: `verdict ${words}` }, t(words, { n: Number(verdict.sentence) || "?" })));
  }
}

/** A line of boxes that shows what the page is about. */
function demonstration() {
  const widths = [3, 5, 4, 7, 3, 6, 4, 5, 3, 6];
  const boxes = widths.map((width, i) => make("i", { class: `w${width} o${(i * 7) % 10}` }));
  return make("div", { class: "demonstration", "aria-hidden": true }, ...boxes);
}
