// A small GIF encoder: pictures of equal size in, the bytes of an animated file out.

const SAME = 255; // the number of no colour: a pixel that is as it was

/** Up to 255 colours that occur most often, and a function from a picture's pixels to their numbers. */
function palette(pictures) {
  const counts = new Map();
  for (const { data } of pictures)
    for (let i = 0; i < data.length; i += 4) {
      const colour = ((data[i] >> 2) << 12) | ((data[i + 1] >> 2) << 6) | (data[i + 2] >> 2);
      counts.set(colour, (counts.get(colour) ?? 0) + 1);
    }
  const common = [...counts.entries()].sort((a, b) => b[1] - a[1]).slice(0, 255);
  const colours = common.map(([colour]) => [(colour >> 12) & 63, (colour >> 6) & 63, colour & 63]);
  const known = new Map(common.map(([colour], i) => [colour, i]));
  const nearest = (colour) => {
    const [r, g, b] = [(colour >> 12) & 63, (colour >> 6) & 63, colour & 63];
    let best = 0;
    let least = Infinity;
    colours.forEach(([x, y, z], i) => {
      const distance = (x - r) ** 2 + (y - g) ** 2 + (z - b) ** 2;
      if (distance < least) [best, least] = [i, distance];
    });
    known.set(colour, best);
    return best;
  };
  const numbers = ({ data }) => {
    const out = new Uint8Array(data.length / 4);
    for (let i = 0; i < out.length; i += 1) {
      const colour = ((data[4 * i] >> 2) << 12) | ((data[4 * i + 1] >> 2) << 6) | (data[4 * i + 2] >> 2);
      out[i] = known.get(colour) ?? nearest(colour);
    }
    return out;
  };
  return { colours: colours.map((colour) => colour.map((part) => (part << 2) | (part >> 4))), numbers };
}

/** LZW codes of variable width, least significant bit first, in blocks of at most 255 bytes. */
function compressed(pixels) {
  const [clear, stop] = [256, 257];
  const bytes = [];
  let [held, bits, width] = [0, 0, 9];
  const put = (code) => {
    held |= code << bits;
    bits += width;
    while (bits >= 8) {
      bytes.push(held & 255);
      held >>>= 8;
      bits -= 8;
    }
  };
  let table = new Map();
  let next = stop + 1;
  put(clear);
  let prefix = pixels[0];
  for (let i = 1; i < pixels.length; i += 1) {
    const key = prefix * 256 + pixels[i];
    const code = table.get(key);
    if (code !== undefined) {
      prefix = code;
      continue;
    }
    put(prefix);
    if (next === 4096) {
      put(clear);
      [table, next, width] = [new Map(), stop + 1, 9];
    } else {
      if (next === 1 << width) width += 1; // the decoder is one entry behind
      table.set(key, next++);
    }
    prefix = pixels[i];
  }
  put(prefix);
  put(stop);
  if (bits) bytes.push(held & 255);
  const blocks = [8];
  for (let i = 0; i < bytes.length; i += 255) {
    const block = bytes.slice(i, i + 255);
    blocks.push(block.length, ...block);
  }
  return [...blocks, 0];
}

/** The smallest rectangle that holds all differences; one pixel where there are none. */
function changed(now, before, width, height) {
  let [left, top, right, bottom] = [width, height, -1, -1];
  for (let y = 0; y < height; y += 1)
    for (let x = 0; x < width; x += 1)
      if (now[y * width + x] !== before[y * width + x]) {
        [left, right] = [Math.min(left, x), Math.max(right, x)];
        [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
      }
  return right < 0 ? [0, 0, 1, 1] : [left, top, right - left + 1, bottom - top + 1];
}

/**
 * The bytes of a GIF that repeats for ever.
 * `pictures`: objects like ImageData, `{data, width, height}`; `delays`: of each, in milliseconds.
 */
export function encodeGif(pictures, delays) {
  const { width, height } = pictures[0];
  const short = (value) => [value & 255, (value >> 8) & 255];
  const { colours, numbers } = palette(pictures);
  const table = new Uint8Array(3 * 256);
  colours.forEach((colour, i) => table.set(colour, 3 * i));
  const letters = (text) => [...text].map((letter) => letter.charCodeAt(0));
  const parts = [letters("GIF89a"), short(width), short(height), [0xf7, 0, 0], table];
  parts.push([0x21, 0xff, 11], letters("NETSCAPE2.0"), [3, 1, 0, 0, 0]);
  let before = null;
  pictures.forEach((picture, i) => {
    const now = numbers(picture);
    const [x, y, w, h] = before ? changed(now, before, width, height) : [0, 0, width, height];
    const pixels = new Uint8Array(w * h);
    for (let row = 0; row < h; row += 1)
      for (let column = 0; column < w; column += 1) {
        const place = (y + row) * width + x + column;
        pixels[row * w + column] = before && now[place] === before[place] ? SAME : now[place];
      }
    parts.push([0x21, 0xf9, 4, before ? 5 : 4, ...short(Math.round(delays[i] / 10)), SAME, 0]);
    parts.push([0x2c, ...short(x), ...short(y), ...short(w), ...short(h), 0], compressed(pixels));
    before = now;
  });
  parts.push([0x3b]);
  const file = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  parts.reduce((at, part) => (file.set(part, at), at + part.length), 0);
  return file;
}
