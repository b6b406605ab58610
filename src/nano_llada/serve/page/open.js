// A saved trace, from a file on this computer.

import { make } from "./dom.js";
import { Player } from "./player.js";
import { LIMITS, TraceError, readTrace } from "./trace.js";
import { t } from "./words.js";

/** The picker and the place to drop files on; used by the studio and by replay files. */
export class Open {
  constructor(bundled = null) {
    this.bundled = bundled;
    this.note = make("p", { role: "status", class: "soft" });
    this.place = make("div", { class: "answer" });
  }

  draw(root) {
    const picker = make("input", { type: "file", id: "file", accept: ".json,application/json", class: "spoken", onchange: () => picker.files[0] && this.read(picker.files[0]) });
    const choose = make("label", { for: "file", class: "main" }, t("open_choose"));
    const zone = make("div", { class: "drop" }, make("p", {}, t("open_text")), picker, choose);
    const head = make("header", { class: "head" }, make("h1", {}, t("open_head")));
    root.replaceChildren(head, zone, this.note, this.place);
    if (this.trace) this.show(this.trace);
  }

  async read(file) {
    this.place.replaceChildren();
    this.trace = null;
    try {
      if (file.size > LIMITS.bytes) throw new TraceError("trace_large", { where: file.name, most: LIMITS.bytes });
      this.show(readTrace(await file.text()));
      this.note.className = "soft";
      this.note.textContent = t("opened", { file: file.name, n: this.trace.frames.at(-1)?.pass ?? 0 });
    } catch (error) {
      this.note.className = "wrong";
      this.note.textContent = error instanceof TraceError ? t(error.key, error.values) : t("trace_unread");
    }
  }

  show(trace) {
    this.trace = trace;
    const player = new Player(trace, { bundled: this.bundled });
    const options = Object.entries(trace.decoding).map(([name, value]) => `${name} ${value}`);
    const about = [trace.model, trace.kind, trace.created.slice(0, 10), ...options].filter(Boolean).join(" · ");
    const head = make("p", { class: "soft" }, about);
    const said = trace.prompt && !trace.before && !trace.after ? make("p", { class: "said" }, trace.prompt) : "";
    this.place.replaceChildren(head, said, player.node);
  }

  /** Files dropped anywhere on the page. */
  accept(before = () => {}) {
    document.addEventListener("dragover", (event) => {
      event.preventDefault();
      document.body.classList.add("dropping");
    });
    document.addEventListener("dragleave", (event) => event.relatedTarget === null && document.body.classList.remove("dropping"));
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      document.body.classList.remove("dropping");
      const file = event.dataTransfer?.files[0];
      if (!file) return;
      before();
      this.read(file);
    });
  }
}
