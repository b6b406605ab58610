// How a model writes: presets and sliders, shown only where the model has them.

import { make } from "./dom.js";
import { t } from "./words.js";

// name -> range; `plain` fields are OpenAI's own, the others belong to "diffusion". `ways`: of a model with several modes,
// those in which it means something.
const SLIDERS = {
  max_tokens: { low: 8, high: 512, step: 8, plain: true, from: "max_new_tokens" },
  temperature: { low: 0, high: 1.5, step: 0.05, plain: true },
  threshold: { low: 0.3, high: 1, step: 0.01, not: ["steps"], ways: ["block"] },
  edit_threshold: { low: 0, high: 1, step: 0.05, ways: ["block"] },
  block_size: { low: 1, high: 64, step: 1, ways: ["block"], unlike: "canvas" }, // there it would change the way of writing
  block_length: { low: 1, high: 64, step: 1 },
  steps: { low: 1, high: 256, step: 1, not: ["threshold"] },
  drafts: { low: 0, high: 16, step: 1, ways: ["speculative"] },
};

const PRESETS = {
  canvas: { quality: { steps: null, threshold: null }, balanced: { threshold: 0.9 }, fast: { threshold: 0.7 } },
  block: { quality: { threshold: 0.95 }, balanced: { threshold: 0.85 }, fast: { threshold: 0.6 } },
  editing: {
    quality: { threshold: 0.7, edit_threshold: 0.5 },
    balanced: { threshold: 0.6, edit_threshold: 0.25 },
    fast: { threshold: 0.5, edit_threshold: 0 },
  },
};

/** The modes of a model that has several (`decode`), such as left to right, by self-speculation or in blocks. */
export const modesOf = (model) => (model.options.includes("decode") ? model.modes : []);

/** What is asked of each model; a value that is not set is the server's default. */
export class Settings {
  constructor() {
    this.values = new Map();
    this.modes = new Map();
  }

  of(model) {
    if (!this.values.has(model.id)) this.values.set(model.id, {});
    return this.values.get(model.id);
  }

  /** The mode that is chosen, null of a model that has but one. */
  mode(model) {
    return this.modes.get(model.id) ?? modesOf(model)[0] ?? null;
  }

  set(model, name, value) {
    const mine = this.of(model);
    if (value === null) delete mine[name];
    else mine[name] = value;
    for (const other of SLIDERS[name].not ?? []) if (value !== null) delete mine[other];
  }

  /** For a request: `{plain, diffusion}`, in a mode; with a preset instead of what is set for diffusion. */
  fields(model, mode = this.mode(model), preset = null) {
    const set = Object.entries(this.of(model)).filter(([name]) => offered(model, mode).includes(name));
    const some = (plain) => Object.fromEntries(set.filter(([name]) => Boolean(SLIDERS[name].plain) === plain));
    const out = { plain: some(true), diffusion: some(false) };
    if (preset) out.diffusion = Object.fromEntries(Object.entries(presetsOf(model, mode)[preset]).filter(([, value]) => value !== null));
    if (mode && mode !== modesOf(model)[0]) out.diffusion.decode = mode;
    return out;
  }
}

function offered(model, mode) {
  const has = (name) => model.options.includes(name) && SLIDERS[name].unlike !== model.kind;
  const means = (name) => mode === null || (SLIDERS[name].ways ?? [mode]).includes(mode);
  return Object.keys(SLIDERS).filter((name) => SLIDERS[name].plain || (has(name) && means(name)));
}

/** The presets of a model in a mode, name -> values, of options that it has. */
export function presetsOf(model, mode) {
  const known = Object.entries(PRESETS[mode ?? model.kind] ?? {}).map(([preset, values]) => {
    const had = Object.entries(values).filter(([name]) => offered(model, mode).includes(name));
    return [preset, Object.fromEntries(had)];
  });
  return Object.fromEntries(known.filter(([, values]) => Object.keys(values).length));
}

/** Whether what is set is exactly a preset. */
function chosen(model, settings, values) {
  const mine = settings.of(model);
  return Object.keys(SLIDERS).every((name) => SLIDERS[name].plain || (mine[name] ?? null) === (values[name] ?? null));
}

function slider(model, settings, name, changed) {
  const { low, step, from = name } = SLIDERS[name];
  const high = name === "max_tokens" ? Math.max(low, Math.min(SLIDERS[name].high, model.context ?? 512)) : SLIDERS[name].high;
  const mine = settings.of(model)[name];
  const usual = model.decoding[from] ?? null;
  const id = `set-${name}`;
  const shown = make("output", { for: id }, String(mine ?? (usual === null ? t("automatic") : usual)));
  const range = make("input", { type: "range", id, min: low, max: high, step, value: mine ?? usual ?? high, "aria-describedby": `${id}-hint` });
  range.addEventListener("input", () => {
    settings.set(model, name, Number(range.value));
    shown.textContent = range.value;
  });
  range.addEventListener("change", () => changed(id));
  const label = make("label", { for: id }, t(`set_${name}`));
  return make("div", { class: `setting${mine === undefined ? " usual" : ""}` }, label, shown, range, make("small", { id: `${id}-hint` }, t(`hint_${name}`)));
}

const short = (count) => (count === null ? "" : count < 1e6 ? `${Math.round(count / 1e3)}K` : `${(count / 1e6).toFixed(count < 1e7 ? 1 : 0)}M`);

export const kindName = (kind) => (["ar", "canvas", "block", "editing", "tri", "speculative"].includes(kind) ? t(`kind_${kind}`) : String(kind));

/** Draw the panel of a model; `changed` is called with nothing to do but keep what is set. */
export function drawPanel(panel, models, model, settings, choose) {
  const draw = (focus) => {
    drawPanel(panel, models, model, settings, choose);
    if (focus) document.getElementById(focus)?.focus();
  };
  const select = make("select", { id: "model", onchange: () => choose(select.value) }, ...models.map((one) => make("option", { value: one.id, selected: one.id === model.id }, one.id)));
  const picker = make("div", { class: "setting" }, make("label", { for: "model" }, t("model")), select);
  picker.append(make("small", {}, t("about_model", { kind: kindName(model.kind), size: short(model.parameters) }).replace(/ · $/, "")));
  const mode = settings.mode(model);
  const modes = make("select", { id: "mode", onchange: () => (settings.modes.set(model.id, modes.value), draw("mode")) }, ...modesOf(model).map((one) => make("option", { value: one, selected: one === mode }, kindName(one))));
  const presets = Object.entries(presetsOf(model, mode)).map(([name, values]) => {
    const apply = () => {
      for (const other of Object.keys(SLIDERS)) if (!SLIDERS[other].plain) settings.set(model, other, null);
      for (const [option, value] of Object.entries(values)) settings.set(model, option, value);
      draw(`preset-${name}`);
    };
    return make("button", { type: "button", id: `preset-${name}`, "aria-pressed": String(chosen(model, settings, values)), onclick: apply }, t(name));
  });
  const reset = make("button", { type: "button", class: "plain", id: "reset", onclick: () => (settings.values.delete(model.id), draw("model")) }, t("reset"));
  panel.replaceChildren(
    make("h2", {}, t("decoding")),
    picker,
    mode ? make("div", { class: "setting" }, make("label", { for: "mode" }, t("mode")), modes) : "",
    presets.length ? make("div", { class: "segments", role: "group", "aria-label": t("presets") }, ...presets) : "",
    ...offered(model, mode).map((name) => slider(model, settings, name, draw)),
    Object.keys(settings.of(model)).length ? reset : "",
  );
}
