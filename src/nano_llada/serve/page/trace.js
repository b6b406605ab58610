// The saved form of one answer: reading it, refusing what is wrong, and the text after any pass. docs/studio.md describes it.

export const FORMAT = "nano-llada-trace";
export const VERSION = 1;
export const LIMITS = { bytes: 64 * 2 ** 20, frames: 100_000, places: 100_000, tokens: 1_000_000, text: 1_000_000 };

/** What is wrong with a trace; `key` and `values` name the sentence in words.js. */
export class TraceError extends Error {
  constructor(key, values = {}) {
    super(key);
    Object.assign(this, { key, values });
  }
}

const wrong = (where, expected) => new TraceError("trace_wrong", { where, expected });

function record(value, where) {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw wrong(where, "{ }");
  return value;
}

function list(value, where, most) {
  if (!Array.isArray(value)) throw wrong(where, "[ ]");
  if (value.length > most) throw new TraceError("trace_large", { where, most });
  return value;
}

function text(value, where, fallback) {
  if (value === undefined && fallback !== undefined) return fallback;
  if (typeof value !== "string") throw wrong(where, '"..."');
  if (value.length > LIMITS.text) throw new TraceError("trace_large", { where, most: LIMITS.text });
  return value;
}

function whole(value, where, most) {
  if (!Number.isInteger(value) || value < 0 || value > most) throw wrong(where, `0 ... ${most}`);
  return value;
}

function number(value, where, most) {
  if (value === undefined || value === null) return null;
  if (typeof value !== "number" || !(value >= 0 && value <= most)) throw wrong(where, `0 ... ${most}`);
  return value;
}

function readToken(value, where) {
  const token = record(value, where);
  const others = list(token.alternatives ?? [], `${where}.alternatives`, 100);
  return {
    id: token.id === undefined || token.id === null ? null : whole(token.id, `${where}.id`, 2 ** 31),
    text: token.text === null || token.text === undefined ? null : text(token.text, `${where}.text`),
    confidence: number(token.confidence, `${where}.confidence`, 1),
    alternatives: others.map((other, i) => {
      const at = `${where}.alternatives[${i}]`;
      const { id, text: written, probability } = record(other, at);
      return {
        id: id === undefined || id === null ? null : whole(id, `${at}.id`, 2 ** 31),
        text: text(written, `${at}.text`),
        probability: number(probability, `${at}.probability`, 1),
      };
    }),
  };
}

function readEdit(value, where) {
  const edit = record(value, where);
  const start = whole(edit.start, `${where}.start`, LIMITS.places);
  const removed = whole(edit.removed, `${where}.removed`, LIMITS.places);
  const inserted = list(edit.inserted, `${where}.inserted`, LIMITS.places);
  if (start + removed > LIMITS.places) throw wrong(`${where}.removed`, `0 ... ${LIMITS.places - start}`);
  return {
    start,
    removed,
    inserted: inserted.map((token, i) => readToken(token, `${where}.inserted[${i}]`)),
    final: edit.final === true,
  };
}

/** One frame as the server sends it, or as it was saved. */
export function readFrame(value, where) {
  const frame = record(value, where);
  const edits = list(frame.edits, `${where}.edits`, LIMITS.places);
  return {
    pass: whole(frame.pass, `${where}.pass`, 2 ** 31),
    ms: number(frame.ms, `${where}.ms`, 1e12),
    edits: edits.map((edit, i) => readEdit(edit, `${where}.edits[${i}]`)),
  };
}

/** A trace from the text of a file. Throws TraceError. */
export function readTrace(source) {
  if (source.length > LIMITS.bytes) throw new TraceError("trace_large", { where: "", most: LIMITS.bytes });
  let data;
  try {
    data = JSON.parse(source.replace(/^\uFEFF/, ""));
  } catch {
    throw new TraceError("trace_json");
  }
  if (typeof data !== "object" || data === null || data.format !== FORMAT) throw new TraceError("trace_other");
  if (data.version !== VERSION) {
    const version = ["number", "string"].includes(typeof data.version) ? String(data.version).slice(0, 20) : "?";
    throw new TraceError("trace_version", { version, known: VERSION });
  }
  const frames = list(data.frames, "frames", LIMITS.frames).map((frame, i) => readFrame(frame, `frames[${i}]`));
  const trace = {
    model: text(data.model, "model", ""),
    kind: text(data.kind, "kind", ""),
    created: text(data.created, "created", ""),
    prompt: text(data.prompt, "prompt", ""),
    before: text(data.before, "before", ""),
    after: text(data.after, "after", ""),
    text: text(data.text, "text", ""),
    ends: list(data.ends ?? [], "ends", 100).map((id, i) => whole(id, `ends[${i}]`, 2 ** 31)),
    finish: data.finish_reason === null ? "" : text(data.finish_reason, "finish_reason", ""),
    seconds: number(data.seconds, "seconds", 1e9),
    decoding: readDecoding(data.decoding ?? {}),
    frames,
  };
  checkSizes(frames);
  return trace;
}

function readDecoding(value) {
  const pairs = Object.entries(record(value, "decoding"));
  list(pairs, "decoding", 100);
  for (const [name, option] of pairs)
    if (option !== null && !["number", "string", "boolean"].includes(typeof option)) throw wrong(`decoding.${name}`, "1");
  return Object.fromEntries(pairs);
}

/** Refuses a text that grows beyond the limits, and an order of passes that is none. */
function checkSizes(frames) {
  let places = 0;
  let tokens = 0;
  let before = 0;
  frames.forEach((frame, i) => {
    if (frame.pass < before) throw wrong(`frames[${i}].pass`, `>= ${before}`);
    before = frame.pass;
    for (const edit of frame.edits) {
      places = Math.max(places, edit.start + edit.removed) - edit.removed + edit.inserted.length;
      tokens += edit.inserted.length;
      if (places > LIMITS.places) throw new TraceError("trace_large", { where: `frames[${i}]`, most: LIMITS.places });
      if (tokens > LIMITS.tokens) throw new TraceError("trace_large", { where: `frames[${i}]`, most: LIMITS.tokens });
    }
  });
}

/** The text of a file that `readTrace` reads. */
export function writeTrace(trace) {
  const { finish, decoding, frames, ...about } = trace;
  const saved = { format: FORMAT, version: VERSION, ...about, finish_reason: finish || null, decoding, frames };
  return JSON.stringify(saved);
}

/** A text under construction: what stands at each place after the frames applied so far. `ends`: ids that end it. */
export class Writing {
  constructor(ends = []) {
    this.ends = ends;
    this.places = [];
    this.keys = 0;
    this.pass = 0;
    this.edits = 0;
  }

  place() {
    return { key: this.keys++, token: null, pass: null, given: false, earlier: [] };
  }

  apply(frame) {
    this.pass = frame.pass;
    for (const edit of frame.edits) this.change(edit, frame.pass);
  }

  change(edit, pass) {
    const end = edit.start + edit.removed;
    while (this.places.length < end) this.places.push(this.place());
    const opens = edit.inserted.some((token) => token.text === null); // then the others are given, not written
    const old = this.places.slice(edit.start, end);
    const fresh = edit.inserted.map((token, i) => {
      const place = { ...(old[i] ?? this.place()) };
      const now = token.text === null ? null : token;
      const inside = i >= old.length && end < this.places.length && !opens;
      if (place.token !== null && place.token.text !== now?.text) {
        place.earlier = [...place.earlier, { text: place.token.text, pass: place.pass }];
        this.edits += 1;
      } else if (inside) this.edits += 1;
      if (place.token?.text !== now?.text) Object.assign(place, { pass, given: opens && now !== null });
      place.token = now;
      return place;
    });
    this.edits += old.slice(fresh.length).filter((place) => place.token !== null).length;
    this.places.splice(edit.start, edit.removed, ...fresh);
  }

  /** The places before the first end token. */
  get shown() {
    const end = this.places.findIndex((place) => place.token !== null && this.ends.includes(place.token.id));
    return end < 0 ? this.places : this.places.slice(0, end);
  }

  /** Tokens that the model wrote, up to the end. */
  get written() {
    return this.shown.filter((place) => place.token !== null && !place.given).length;
  }
}

const BROKEN = "\uFFFD";

/**
 * The text of each place. A token that is part of a character reads as U+FFFD; where the whole answer is known, the
 * first token of such a run shows its characters and the others show nothing.
 */
export function spelled(places, answer) {
  const texts = places.map((place) => place.token?.text ?? null);
  if (!answer || texts.includes(null)) return texts;
  let at = 0;
  for (let i = 0; i < texts.length; i += 1) {
    if (!texts[i].includes(BROKEN)) {
      if (!answer.startsWith(texts[i], at)) return places.map((place) => place.token.text); // they do not belong together
      at += texts[i].length;
      continue;
    }
    let end = i;
    while (end < texts.length && texts[end].includes(BROKEN)) end += 1;
    const next = end < texts.length ? answer.indexOf(texts[end], at + 1) : answer.length;
    if (next < 0) return places.map((place) => place.token.text);
    texts.fill("", i, end);
    texts[i] = answer.slice(at, next);
    at = next;
    i = end - 1;
  }
  return texts;
}

/** The text after the first `count` frames; a step forward is one frame, a step back starts again. */
export class Replay {
  constructor(frames, ends = []) {
    this.frames = frames;
    this.ends = ends;
    this.count = 0;
    this.writing = new Writing(ends);
  }

  at(count) {
    if (count < this.count) {
      this.writing = new Writing(this.ends);
      this.count = 0;
    }
    while (this.count < Math.min(count, this.frames.length)) this.writing.apply(this.frames[this.count++]);
    return this.writing;
  }
}
