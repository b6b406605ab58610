// A replay as one HTML file: this page's own modules and styles, written into it beside the trace.

import { writeTrace } from "./trace.js";

// in an order in which none is used before it stands; serve/replay.py makes the same file
export const PARTS = ["dom", "words", "trace", "canvas", "gif", "picture", "player", "open", "replay"];

/** A module without its imports and exports: joined, the modules are one. */
const joined = (source) => source.replace(/^import .*\n/gm, "").replace(/^export /gm, "");

/** JSON that cannot end the script element around it. */
const enclosed = (json) => json.replaceAll("<", "\\u003c");

async function source(name) {
  const answer = await fetch(new URL(name, document.baseURI));
  if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
  return answer.text();
}

/** Read the parts now, so that a replay can be saved when the server is gone. */
export const sources = () => Promise.all(["replay.html", "studio.css", ...PARTS.map((part) => `${part}.js`)].map(source));

/** The replay of a trace as the text of an HTML file, which needs nothing else. */
export function bundle(trace, [page, style, ...modules]) {
  const random = [...crypto.getRandomValues(new Uint8Array(16))];
  const nonce = random.map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const script = modules.map(joined).join("\n");
  const parts = { NONCE: nonce, STYLE: style, TRACE: enclosed(writeTrace(trace)), SCRIPT: script };
  return page.replace(/\{\{(NONCE|STYLE|TRACE|SCRIPT)\}\}/g, (_, name) => parts[name]);
}
