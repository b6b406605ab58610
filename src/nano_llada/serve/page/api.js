// The server's HTTP interface, as docs/protocol.md describes it.

/** What went wrong with a request: `kind` is gone, key, busy or refused; `message` is the server's own. */
export class ApiError extends Error {
  constructor(kind, message = "", wait = null) {
    super(message);
    Object.assign(this, { kind, wait });
  }
}

const KEY = "nano-llada-key"; // of this browser tab alone, and gone with it

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

async function request(path, body, signal) {
  const headers = key.get() ? { Authorization: `Bearer ${key.get()}` } : {};
  const options = { headers, signal, cache: "no-store", credentials: "omit" };
  if (body !== undefined)
    Object.assign(options, { method: "POST", body: JSON.stringify(body), headers: { ...headers, "Content-Type": "application/json" } });
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (signal?.aborted) throw error;
    if (error instanceof TypeError && /header|ISO-8859/i.test(error.message)) throw new ApiError("key"); // not a header's letters
    throw new ApiError("gone");
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  const message = typeof told.error?.message === "string" ? told.error.message : `HTTP ${answer.status}`;
  const kind = { 401: "key", 403: "key", 429: "busy", 502: "gone", 503: "gone" }[answer.status] ?? "refused";
  throw new ApiError(kind, message, answer.headers.get("Retry-After"));
}

/** The models: `{id, kind, modes, infill, options, decoding, ends, ...}`. */
export async function models() {
  const { data } = await (await request("/v1/models")).json();
  return data.map(({ id, nano_llada: about = {} }) => ({
    id: String(id),
    kind: about.options?.includes("decode") ? "tri" : (about.kind ?? "ar"),
    modes: about.modes ?? [],
    answers: about.answers !== false,
    turns: about.turns !== false,
    infill: about.infill === true,
    check: about.check === true,
    context: about.context ?? null,
    parameters: about.parameters ?? null,
    ends: about.end_tokens ?? [],
    decoding: about.decoding ?? {},
    options: about.options ?? [],
  }));
}

/** Events of a stream, one JSON object each. Throws ApiError if the stream breaks off. */
async function* events(path, body, signal) {
  const answer = await request(path, { ...body, stream: true, stream_options: { include_usage: true } }, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new ApiError("gone");
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        const event = JSON.parse(data);
        if (event.error) throw new ApiError("refused", String(event.error.message ?? ""));
        yield event;
      }
    }
  } catch (error) {
    if (error instanceof ApiError || signal?.aborted) throw error;
    throw new ApiError("gone");
  } finally {
    reader.cancel().catch(() => {});
  }
}

export const chat = (body, signal) => events("/v1/chat/completions", body, signal);
export const complete = (body, signal) => events("/v1/completions", body, signal);
export const infill = (body, signal) => events("/v1/infill", body, signal);

/** Whether a story contradicts itself, where the server offers this: `{verdict, sentence, reason}`. */
export const check = async (text, signal) => (await request("/v1/check", { text }, signal)).json();
