// The net drawn layer by layer, receptive fields over the picture, and activation maps.

import { decode, paint } from "./heat.js";

const TALLEST = 96; // CSS pixels of a block
const THINNEST = 8;
const WIDEST = 36;

const KINDS = {
  conv: "convolution", pool: "max-pooling", fc: "fully connected",
  lrn: "local response normalisation", bn: "batch normalisation",
  inception: "Inception", pyramid: "spatial pyramid pooling", mean: "mean pooling",
};

export const count = (value) => value.toLocaleString("en");

const size = ([channels, height, width]) => `${count(channels)} × ${height} × ${width}`;

export function work(operations) {
  if (operations >= 1e9) return `${(operations / 1e9).toFixed(2)} billion`;
  if (operations >= 1e6) return `${(operations / 1e6).toFixed(1)} million`;
  return count(operations);
}

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/**
 * Fills `root` with a button for each layer: one stop of the tab key, arrow keys within.
 *
 * onLook(layer): the pointer or the focus is on a layer; onOpen(layer): it was chosen.
 */
export function drawNet(root, layers, { onLook, onOpen }) {
  const side = Math.max(...layers.map((layer) => layer.output[1]));
  const logs = layers.map((layer) => Math.log2(layer.output[0]));
  const [least, most] = [Math.min(...logs), Math.max(...logs)];
  const tall = (layer) => TALLEST * Math.sqrt(layer.output[1] / side);
  const groups = new Map();
  const buttons = layers.map((layer, i) => {
    const slab = element("span", { className: `slab ${layer.kind}` });
    slab.style.height = `${tall(layer)}px`;
    const share = most > least ? (logs[i] - least) / (most - least) : 1;
    slab.style.width = `${THINNEST + share * (WIDEST - THINNEST)}px`;
    const short = { conv: layer.name.replace("conv", ""), fc: layer.name }[layer.kind] ?? layer.kind;
    const button = element("button", { type: "button", className: "layer", tabIndex: i ? -1 : 0 },
      element("span", { className: "slot" }, slab),
      element("span", { className: "short", textContent: short }));
    button.dataset.layer = layer.name;
    button.setAttribute("aria-label", sentence(layer));
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("pointermove", (event) => {
      // Not when the page scrolls below a resting pointer: then the focus is what counts.
      if (event.movementX || event.movementY) onLook(layer);
    });
    button.addEventListener("focus", () => {
      for (const other of buttons) other.tabIndex = other === button ? 0 : -1;
      onLook(layer);
    });
    button.addEventListener("click", () => onOpen(layer));
    const stage = layer.kind === "fc" ? "head" : layer.name.match(/\d+/)?.[0] ?? layer.name;
    if (!groups.has(stage)) groups.set(stage, []);
    groups.get(stage).push({ layer, button });
    return button;
  });
  root.addEventListener("keydown", (event) => {
    const [at, last] = [buttons.indexOf(document.activeElement), buttons.length - 1];
    const next = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: last };
    if (at < 0 || !(event.key in next)) return;
    event.preventDefault();
    buttons[Math.max(0, Math.min(last, next[event.key]))].focus();
  });
  for (const [stage, members] of groups) {
    const [channels, height, width] = members[0].layer.output;
    const title = stage === "head" ? ["Classifier", "fully connected"]
      : [`${height} × ${width}`, `${count(channels)} channels`];
    const drawn = element("div", { className: "stage" },
      element("div", { className: "blocks" }, ...members.map((member) => member.button)),
      element("p", { className: "stage-title" },
        element("span", { textContent: title[0] }), element("span", { textContent: title[1] })));
    // Wide screens line the stages up by their middles; narrow ones save the height.
    const own = Math.max(24, ...members.map((member) => tall(member.layer)));
    drawn.style.setProperty("--own", `${own}px`);
    drawn.style.setProperty("--all", `${TALLEST}px`);
    root.append(drawn);
  }
}

/** Marks the layer that is looked at and the one whose maps are open. */
export function mark(root, at, open) {
  for (const button of root.querySelectorAll("button")) {
    button.classList.toggle("at", button.dataset.layer === at?.name);
    button.setAttribute("aria-pressed", String(button.dataset.layer === open?.name));
  }
}

function sentence(layer) {
  return facts(layer).reduce((text, [name, value]) => `${text}, ${name.toLowerCase()} ${value}`,
    `${layer.name}, ${KINDS[layer.kind]}`);
}

export function facts(layer) {
  return [
    ["Output", size(layer.output)],
    ["Parameters", count(layer.parameters)],
    ["Multiply-adds", work(layer.multiply_adds)],
    ["Receptive field", `${layer.receptive_field} × ${layer.receptive_field}`],
    ["Stride", count(layer.stride)],
  ];
}

export const titleOf = (layer) => `${layer.name}, ${KINDS[layer.kind]}`;

/**
 * Lays a layer's receptive field over the middle of a picture; `mark` fills by percentages of it.
 * The square is in true proportion to the picture when its smaller side is `scale` pixels.
 */
export function placeField(mark, layer, scale, [height, width]) {
  const unit = Math.min(height, width) / scale; // pixels of the picture for one of the net
  mark.style.width = `${(100 * layer.receptive_field * unit) / width}%`;
  mark.style.height = `${(100 * layer.receptive_field * unit) / height}%`;
  mark.classList.toggle("beyond", layer.receptive_field * unit > Math.max(height, width));
}

export function fieldText(layer, scale, [height, width]) {
  const small = Math.min(height, width);
  const [tall, wide] = [height, width].map((side) => Math.round((side * scale) / small));
  const field = layer.receptive_field;
  const picture = `the picture, ${tall} × ${wide} at Q = ${scale}`;
  if (field > Math.max(tall, wide)) {
    return `A value’s receptive field is larger than ${picture}: beyond it lies padding.`;
  }
  if (field > scale) return `A value’s receptive field is larger than the smaller side of ${picture}.`;
  const share = (100 * field * field) / (tall * wide);
  return `A value sees ${share < 0.1 ? "less than 0.1" : share.toFixed(1)} % of ${picture}.`;
}

/** The strongest channels of a layer: maps, or bars where there is one value a channel. */
export async function drawMaps(root, found) {
  const strongest = Math.max(...found.maps.map((map) => map.mean), 0);
  const single = found.height * found.width === 1;
  root.className = single ? "values" : "grid";
  const figures = await Promise.all(found.maps.map(async (map) => {
    const title = element("b", { textContent: `channel ${map.channel}` });
    const numbers = element("span", {
      textContent: single ? number(map.mean) : `mean ${number(map.mean)}, max ${number(map.max)}`,
    });
    let shown;
    if (single) {
      shown = element("span", { className: "bar" });
      const fill = shown.appendChild(element("span"));
      fill.style.width = `${strongest > 0 ? Math.max(0, (100 * map.mean) / strongest) : 0}%`;
    } else {
      shown = element("canvas");
      paint(shown, await decode(map.map));
      shown.setAttribute("role", "img");
      shown.setAttribute("aria-label", `Activations of channel ${map.channel}`);
    }
    const caption = element("figcaption", {}, title, numbers);
    return element("figure", {}, ...(single ? [caption, shown] : [shown, caption]));
  }));
  root.replaceChildren(...figures);
}

export function mapsText(found) {
  const shown = `${found.maps.length} of ${count(found.channels)} channels, largest mean first`;
  if (found.height * found.width === 1) return `${shown}; one value each.`;
  return `${shown}; ${found.height} × ${found.width} values each, from 0 to the channel’s own largest.`;
}

const number = (value) => value.toLocaleString("en", { maximumSignificantDigits: 3 }).replace("-", "−");
