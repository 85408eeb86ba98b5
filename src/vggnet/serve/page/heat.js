// Grey maps in colours.

// From black over violet, red and orange to white: OKLCH's lightness rises evenly from 0.12 to 0.97,
// so equal steps of the value look equal, in print and to the colour-blind too.
const ANCHORS = [
  [5, 3, 22], [44, 0, 71], [93, 0, 90], [149, 0, 92], [208, 1, 69],
  [245, 76, 1], [254, 145, 13], [247, 203, 120], [247, 246, 231],
];

const TABLE = Array.from({ length: 256 }, (_, value) => {
  const place = (value / 255) * (ANCHORS.length - 1);
  const below = Math.min(Math.floor(place), ANCHORS.length - 2);
  const share = place - below;
  return ANCHORS[below].map((low, i) => Math.round(low + share * (ANCHORS[below + 1][i] - low)));
});

/** The values of a grey PNG, 0 to 255, and their largest. */
export async function decode(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  const { naturalWidth: width, naturalHeight: height } = image;
  const context = context2d(width, height);
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, width, height).data;
  const values = Uint8ClampedArray.from({ length: width * height }, (_, i) => pixels[4 * i]);
  return { width, height, values, largest: values.reduce((a, b) => Math.max(a, b), 0) };
}

/** Paints a map onto a canvas, which takes its size. The value `top` gets the lightest colour. */
export function paint(canvas, map, top = 255) {
  canvas.width = map.width;
  canvas.height = map.height;
  const image = new ImageData(map.width, map.height);
  map.values.forEach((value, i) => {
    const colour = TABLE[top ? Math.min(255, Math.round((255 * value) / top)) : 0];
    image.data.set(colour, 4 * i);
    image.data[4 * i + 3] = 255;
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** The colours themselves, from the least to the largest value. */
export function paintScale(canvas) {
  paint(canvas, { width: 256, height: 1, values: TABLE.map((_, value) => value) });
}

function context2d(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas.getContext("2d", { willReadFrequently: true });
}
