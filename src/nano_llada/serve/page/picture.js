// A trace as moving pictures: every pass drawn on a 2D canvas, then encoded as a GIF.

import { sureness } from "./canvas.js";
import { encodeGif } from "./gif.js";
import { Replay, spelled } from "./trace.js";
import { t } from "./words.js";

const WIDTH = 720;
const MARGIN = 28;
const LINE = 34;
const MOST = 120; // pictures; a longer trace is thinned out
const SURE = ["#f5b268", "#f9d5a7", "#f3ecd6", "#d6ede6", "#b7dfd5"];
const FONT = 'Georgia, "Noto Serif CJK SC", "Songti SC", SimSun, serif';
const INK = { paper: "#fbfaf7", text: "#1f1d1a", soft: "#6a645c", mask: "#e4dfd6", accent: "#0b6e62" };

/** Boxes of a text on lines: `{x, y, width, text, place}`. */
function lay(brush, words, top) {
  const boxes = [];
  let [x, y] = [MARGIN, top];
  const put = (text, place, width) => {
    if (x + width > WIDTH - MARGIN && x > MARGIN) [x, y] = [MARGIN, y + LINE];
    boxes.push({ x, y, width, text, place });
    x += width;
  };
  for (const { text, place } of words) {
    if (place?.token === null) {
      put("", place, 26);
      continue;
    }
    for (const piece of text.split(/(\n|\s+)/).filter(Boolean)) {
      const width = brush.measureText(piece).width;
      if (piece === "\n") [x, y] = [MARGIN, y + LINE];
      else if (!piece.trim()) x += x > MARGIN ? width : 0;
      else if (width <= WIDTH - 2 * MARGIN) put(piece, place, width);
      else for (const letter of piece) put(letter, place, brush.measureText(letter).width);
    }
  }
  return { boxes, bottom: y + LINE };
}

function words(writing, trace, last) {
  const shown = writing.shown;
  const texts = spelled(shown, last ? trace.text : "");
  const inside = shown.map((place, i) => ({ place, text: (texts[i] ?? "").replaceAll("\uFFFD", "◌") }));
  return [{ text: trace.before }, ...inside, { text: trace.after }].filter((word) => word.place || word.text);
}

function drawBox(brush, { x, y, width, text, place }, pass) {
  const sure = place?.token && !place.given ? sureness(place.token.confidence) : null;
  if (place?.token === null || sure !== null) {
    brush.fillStyle = sure === null ? INK.mask : SURE[sure];
    brush.beginPath();
    brush.roundRect(x + (sure === null ? 2 : 0), y + 3, width - (sure === null ? 4 : 0), LINE - 7, 5);
    brush.fill();
  }
  brush.fillStyle = place && !place.given ? INK.text : INK.soft;
  brush.fillText(text, x, y + LINE / 2);
  if (place?.token && (place.earlier.length || place.pass === pass) && !place.given) {
    brush.fillStyle = INK.accent;
    brush.fillRect(x, y + LINE - 5, width, place.earlier.length ? 3 : 1.5);
  }
}

function evenly(count) {
  const all = Array.from({ length: count }, (_, i) => i + 1);
  if (count <= MOST) return all;
  return Array.from({ length: MOST }, (_, i) => all[Math.round((i * (count - 1)) / (MOST - 1))]);
}

/** The bytes of a GIF of a trace. `milliseconds`: of each pass. */
export function gifOf(trace, milliseconds = 350) {
  const counts = evenly(trace.frames.length);
  const replay = new Replay(trace.frames, trace.ends);
  const surface = document.createElement("canvas");
  const brush = surface.getContext("2d", { willReadFrequently: true });
  const large = `19px ${FONT}`;
  brush.font = large;
  const heads = lay(brush, [{ text: trace.prompt.slice(0, 300) }], 56);
  const top = (trace.prompt ? heads.bottom : 48) + 10;
  const layouts = counts.map((count) => {
    const writing = replay.at(count);
    return { pass: writing.pass, ...lay(brush, words(writing, trace, count === trace.frames.length), top) };
  });
  surface.width = WIDTH;
  surface.height = Math.min(2000, Math.max(...layouts.map(({ bottom }) => bottom)) + MARGIN);
  const final = trace.frames.at(-1)?.pass ?? 0;
  const pictures = layouts.map(({ boxes, pass }) => {
    brush.textBaseline = "middle";
    brush.fillStyle = INK.paper;
    brush.fillRect(0, 0, WIDTH, surface.height);
    brush.fillStyle = INK.accent;
    brush.fillRect(0, 0, final ? (WIDTH * pass) / final : WIDTH, 4);
    brush.font = "14px sans-serif";
    brush.fillStyle = INK.soft;
    brush.fillText([trace.model.slice(0, 60), t("pass_of", { pass, passes: final })].filter(Boolean).join(" · "), MARGIN, 32);
    brush.font = large;
    for (const box of [...(trace.prompt ? heads.boxes : []), ...boxes]) drawBox(brush, box, pass);
    return brush.getImageData(0, 0, WIDTH, surface.height);
  });
  const delays = pictures.map((_, i) => (i === pictures.length - 1 ? 2500 : milliseconds));
  return encodeGif(pictures, delays);
}
