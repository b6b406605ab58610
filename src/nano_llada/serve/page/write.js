// One answer from the server into a player: what is asked, what is measured, what is kept as a trace.

import * as api from "./api.js";
import { readFrame } from "./trace.js";

/** An empty trace of a request to a model. */
export function newTrace(model, settings, { prompt = "", before = "", after = "" } = {}) {
  const decoding = { ...settings.diffusion, ...settings.plain };
  const about = { model: model.id, kind: settings.diffusion.decode ?? model.kind, created: new Date().toISOString() };
  return { ...about, prompt, before, after, text: "", ends: model.ends, seconds: null, decoding, finish: "", frames: [] };
}

/** The fields of a request that say how to write. */
export function asked(model, settings) {
  const diffusion = { ...settings.diffusion, frames: true, alternatives: 4 };
  return { model: model.id, ...settings.plain, diffusion };
}

/**
 * Send a request and show its answer as it comes. `path` is a function of api.js; gives the trace with what was measured
 * here, from sending to the last event.
 */
export async function write(path, body, player, signal) {
  const { trace } = player;
  const begin = performance.now();
  let last = begin;
  let [usage, first] = [null, null];
  for await (const event of path(body, signal)) {
    const now = performance.now();
    if (event.diffusion_frame && (event.diffusion_frame.index ?? 0) === 0) {
      const frame = readFrame(event.diffusion_frame, "diffusion_frame");
      player.feed({ ...frame, ms: Math.round((now - begin) * 10) / 10 });
      if (frame.pass > 0) first ??= (now - begin) / 1000;
      last = now;
    }
    const choice = event.choices?.[0];
    trace.text += choice?.delta?.content ?? choice?.text ?? "";
    trace.finish = choice?.finish_reason ?? trace.finish;
    if (typeof event.text === "string") // of a text with gaps: all of it
      trace.text = event.text.slice(trace.before.length, event.text.length - trace.after.length);
    usage = event.usage ?? usage;
  }
  trace.seconds = (last - begin) / 1000;
  return { usage, first };
}
