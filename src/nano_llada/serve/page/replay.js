// The entry of a replay file: its own trace, and any other that is opened in it.

import { make } from "./dom.js";
import { Open } from "./open.js";
import { TraceError, readTrace } from "./trace.js";
import { preferred, setLanguage, t } from "./words.js";

setLanguage(preferred());
const own = new Open();
const root = document.getElementById("main");
own.draw(root);
own.accept();
try {
  own.show(readTrace(document.getElementById("trace").textContent));
} catch (error) {
  own.note.textContent = error instanceof TraceError ? t(error.key, error.values) : t("trace_unread");
}
root.prepend(make("p", { class: "brand" }, make("span", { class: "mark", "aria-hidden": true }), make("span", {}, "nano-llada ", make("em", {}, t("replay_of")))));
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, select, textarea, button, summary, .text") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (document.querySelector(".player")?.player.key(event)) event.preventDefault();
});
