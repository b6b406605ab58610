// The page: views, model, language, keyboard, and what to say when something goes wrong.

import * as api from "./api.js";
import { bundle, sources } from "./bundle.js";
import { Chat } from "./chat.js";
import { make } from "./dom.js";
import { Fill, Templates } from "./fill.js";
import { Open } from "./open.js";
import { Race } from "./race.js";
import { Settings, drawPanel } from "./settings.js";
import { TraceError } from "./trace.js";
import { getLanguage, preferred, setLanguage, t, translate } from "./words.js";

const VIEWS = ["chat", "race", "fill", "templates", "open"];
const at = (id) => document.getElementById(id);

class App {
  constructor() {
    this.models = [];
    this.model = null;
    this.settings = new Settings();
    this.running = null; // what stops the request that is under way
    this.stopped = false;
    this.view = "chat";
    this.bundled = async (trace) => bundle(trace, await (this.sources ?? sources()));
    this.views = { chat: new Chat(this), race: new Race(this), fill: new Fill(this), templates: new Templates(this), open: new Open(this.bundled) };
  }

  async begin() {
    setLanguage(localStorage.getItem("language") ?? preferred());
    this.theme(localStorage.getItem("theme"));
    this.listen();
    this.go();
    await this.load();
    this.sources = await sources().catch(() => null); // then they are asked for again when a replay is saved
  }

  /** Ask the server what it serves. */
  async load() {
    try {
      this.models = await api.models();
      this.model = this.models.find((model) => model.id === this.model?.id) ?? this.models[0] ?? null;
      at("banner").replaceChildren();
      this.show();
    } catch (error) {
      this.trouble(error);
    }
  }

  /** The chosen model; asks the server again if it was not there before. */
  async needModel() {
    if (!this.model) await this.load();
    return this.model;
  }

  show() {
    translate();
    document.title = `${t(this.view)} · ${t("title")}`;
    for (const link of document.querySelectorAll("nav a"))
      if (link.hash === `#${this.view}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    document.body.dataset.view = this.view;
    this.views[this.view].draw(at("main"));
    at("panel").hidden = this.view === "open" || !this.model;
    if (this.model) drawPanel(at("panel"), this.models, this.model, this.settings, (id) => {
      this.model = this.models.find((model) => model.id === id);
      this.show();
      at("model").focus();
    });
  }

  go() {
    const asked = location.hash.slice(1);
    this.view = VIEWS.includes(asked) ? asked : "chat";
    this.show();
  }

  /** Run one request at a time; gives whether it came to its end. */
  async run(work) {
    const controller = new AbortController();
    Object.assign(this, { running: controller, stopped: false });
    this.busy();
    try {
      await work(controller.signal);
      at("banner").replaceChildren();
      return true;
    } catch (error) {
      if (!controller.signal.aborted) this.trouble(error);
      return false;
    } finally {
      this.running = null;
      this.busy();
    }
  }

  busy() {
    document.body.classList.toggle("busy", Boolean(this.running));
    const view = this.views[this.view];
    if (this.view === "chat") view.busy();
    else for (const button of document.querySelectorAll("main .toolbar .main, main .composer .main")) {
      button.textContent = t(this.running ? "stop" : button.dataset.idle);
    }
  }

  stop() {
    this.stopped = Boolean(this.running);
    this.running?.abort();
  }

  say(text) {
    at("spoken").textContent = text;
  }

  /** What went wrong, and what to do about it. */
  trouble(error) {
    const put = (head, text, ...buttons) => at("banner").replaceChildren(make("div", { class: "banner" }, make("div", {}, make("strong", {}, head), text ? make("p", {}, ...coded(text)) : ""), ...buttons));
    const again = make("button", { type: "button", class: "main", onclick: () => this.load() }, t("retry"));
    if (!(error instanceof api.ApiError)) return put(error instanceof TraceError ? t(error.key, error.values) : t("failed", { message: error.message }), "");
    if (error.kind === "gone") return put(t("gone"), t("gone_text"), again);
    if (error.kind === "busy") return put(t("busy", { n: error.wait ?? "?" }), "", again);
    if (error.kind === "refused") return put(t("refused", { message: error.message }), "");
    const enter = make("button", { type: "button", class: "main", onclick: () => this.askKey() }, t("enter_key"));
    put(t(api.key.get() ? "wrong_key" : "no_key"), t("key_text"), enter);
  }

  dialog(title, ...content) {
    const close = make("button", { type: "button", class: "cross", "aria-label": t("close"), title: t("close"), onclick: () => at("dialog").close() });
    at("dialog").replaceChildren(make("header", {}, make("h2", { id: "dialog-title" }, title), close), ...content);
    at("dialog").setAttribute("aria-labelledby", "dialog-title");
    at("dialog").showModal();
  }

  askKey() {
    const field = make("input", { type: "password", id: "key", autocomplete: "off", value: api.key.get(), spellcheck: "false" });
    const use = (event) => {
      event.preventDefault();
      api.key.set(field.value.trim());
      at("dialog").close();
      this.load();
    };
    const form = make("form", { onsubmit: use }, make("label", { for: "key" }, t("keys")), field, make("p", { class: "soft" }, t("key_text")), make("button", { class: "main" }, t("use_key")));
    this.dialog(t("keys"), form);
    field.focus();
  }

  help() {
    const rows = [["Enter", "key_send"], ["Shift Enter", "key_line"], ["Alt 1 … 5", "key_views"], ["/", "key_prompt"], ["Space", "key_play"], ["← →", "key_step"], ["Home End", "key_ends"], ["Alt G", "key_gap"], ["Esc", "key_stop"], ["?", "key_help"]];
    const list = rows.flatMap(([keys, what]) => [make("dt", {}, ...keys.split(" ").map((one) => make("kbd", {}, one))), make("dd", {}, t(what))]);
    this.dialog(t("shortcuts"), make("dl", { class: "keys" }, ...list));
  }

  theme(name) {
    if (["light", "dark"].includes(name)) document.documentElement.dataset.theme = name;
  }

  listen() {
    addEventListener("hashchange", () => {
      this.go();
      at("main").focus({ preventScroll: true });
    });
    at("to-language").addEventListener("click", () => {
      setLanguage(getLanguage() === "zh" ? "en" : "zh");
      localStorage.setItem("language", getLanguage());
      at("banner").replaceChildren();
      for (const view of Object.values(this.views)) view.again?.();
      this.show();
    });
    at("to-theme").addEventListener("click", () => {
      const now = document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
      const next = now === "dark" ? "light" : "dark";
      localStorage.setItem("theme", next);
      this.theme(next);
    });
    at("to-key").addEventListener("click", () => this.askKey());
    at("to-help").addEventListener("click", () => this.help());
    at("to-panel").addEventListener("click", () => {
      const open = at("panel").classList.toggle("shown");
      at("to-panel").setAttribute("aria-expanded", String(open));
      if (open) at("model")?.focus();
    });
    this.views.open.accept(() => {
      if (this.view === "open") return;
      history.replaceState(null, "", "#open");
      this.go();
    });
    document.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || at("dialog").open) return;
    const view = /^(Digit|Numpad)([1-5])$/.exec(event.code)?.[2];
    if (event.altKey) {
      if (view) location.hash = `#${VIEWS[view - 1]}`;
      else if (event.code === "KeyG" && this.view === "fill") this.views.fill.makeGap();
      else return;
      return event.preventDefault();
    }
    if (event.key === "Escape") return this.stop();
    if (event.target.closest("input, select, textarea, [contenteditable]")) return;
    if (event.key === "?") this.help();
    else if (event.key === "/") at("prompt")?.focus();
    else if (event.target.closest("button, a, summary, .text") || !this.play(event)) return;
    event.preventDefault();
  }

  /** Keys of the player: the last one on the page. */
  play(event) {
    const players = [...document.querySelectorAll("main .player")].filter((node) => !node.closest(".past, .lane"));
    const clock = document.querySelector(".results [data-act=play]");
    if (clock && event.key === " ") clock.click();
    return Boolean(clock) || (players.at(-1)?.player.key(event) ?? false);
  }
}

/** Text with its `code` parts as elements. */
const coded = (text) => text.split("`").map((part, i) => (i % 2 ? make("code", {}, part) : part));

new App().begin();
