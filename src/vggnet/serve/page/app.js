// The page: a picture, its likeliest classes, where the net sees them, and the net itself.

import { Failure, ask, setKey } from "./api.js";
import { decode, paint, paintScale } from "./heat.js";
import {
  count, drawMaps, drawNet, element, facts, fieldText, mapsText, mark, placeField, titleOf, work,
} from "./net.js";

const MAPS = 12; // activation maps of a layer
const PATIENCE = 200; // milliseconds that a choice of the protocol stands before it is asked for

const $ = (id) => document.getElementById(id);
const phrase = (value) => (value < 10 ? value.toFixed(1) : count(Math.round(value)));

let model;
let photo = null; // the present picture: {name, body, url, size, records}
let shown = null; // its record on the page: {protocol, answer, heat}, heat being maps by label
let layer = null; // the layer in the detail line
let open = null; // the layer whose activation maps are asked for

// One request of each kind at a time: a new one ends the one before.
const running = {};
const start = (kind) => {
  running[kind]?.abort();
  running[kind] = new AbortController();
  return running[kind].signal;
};

/** Runs `work(signal)`, and says on the page what goes wrong; `retry` is what to do once more. */
async function job(kind, retry, work) {
  const signal = start(kind);
  busy(kind, true);
  try {
    await work(signal);
  } catch (error) {
    if (signal.aborted) return;
    if (error.status === 401) askForKey(error.message, retry);
    else if (error instanceof Failure) notify(error.message, error.passes ? retry : null);
    else notify(`The page failed: ${error.message}`);
  } finally {
    if (!signal.aborted) busy(kind, false);
  }
}

function busy(kind, on) {
  $(kind === "maps" ? "activations" : "right").classList.toggle("busy", on);
}

function notify(text, retry = null) {
  $("notice").className = "notice"; // always in the page, or its text would not be read aloud
  if ($("notice-text").textContent !== text) $("notice-text").textContent = text;
  $("countdown").textContent = "";
  $("again").hidden = !retry;
  $("again").onclick = () => {
    quiet();
    retry();
  };
}

function quiet() {
  $("notice").className = "unseen";
  $("notice-text").textContent = $("countdown").textContent = "";
  $("again").hidden = true;
}

function onBusy(seconds, attempt, tries) {
  if (!seconds) return quiet();
  notify("The server is busy.");
  // Not read aloud each second.
  $("countdown").textContent = `Try ${attempt} of ${tries} in ${seconds} s.`;
}

function askForKey(message, retry) {
  quiet();
  $("key-text").textContent = message;
  $("key").hidden = false;
  $("key-input").value = "";
  $("key-input").focus();
  $("key").onsubmit = (event) => {
    event.preventDefault();
    setKey($("key-input").value.trim());
    $("key").hidden = true;
    retry();
  };
}

// The picture.

async function take(file) {
  quiet();
  const name = file.name || "picture";
  const { bytes, pixels } = model.limits;
  const refuse = (is, most) => notify(`${name} has ${is}; the server takes ${most} at most. Save it smaller.`);
  if (file.size > bytes) return refuse(`${megabytes(file.size)} MB`, `${megabytes(bytes)} MB`);
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    return notify(`${name} cannot be read. Is it a folder?`);
  }
  if (!file.size) return notify(`${name} is empty.`);
  if (photo) URL.revokeObjectURL(photo.url);
  const own = { name, body: file, url: URL.createObjectURL(file), size: null, records: new Map() };
  photo = own;
  forget();
  await showPicture(own);
  if (own !== photo) return;
  const [height, width] = own.size ?? [0, 0];
  if (height * width > pixels) return refuse(`${count(height * width)} pixels`, count(pixels));
  if (open) openMaps(open);
  predict();
}

const megabytes = (bytes) => (bytes / 2 ** 20).toFixed(1).replace(".0", "");

/** Ends and empties what belongs to the picture before. */
function forget() {
  for (const kind of ["predict", "heat", "maps"]) {
    running[kind]?.abort();
    busy(kind, false);
  }
  shown = null;
  $("maps").replaceChildren();
  $("maps-text").textContent = "";
  for (const id of ["classes", "heat", "overlay"]) $(id).hidden = true;
  $("hint").hidden = false;
  $("protocol").textContent = "";
  for (const cell of document.querySelectorAll("#protocol-list .cost")) cell.textContent = "";
}

async function showPicture(own) {
  const image = $("picture");
  for (const view of [image, $("mini-picture")]) view.src = own.url;
  image.alt = own.name;
  $("name").textContent = own.name;
  $("invitation").hidden = true;
  $("zone").classList.remove("empty");
  $("frame").hidden = false;
  // A format that the browser does not know may still be one that the server does.
  const seen = await image.decode().then(() => true, () => false);
  if (own !== photo) return;
  image.hidden = !seen;
  $("mini").hidden = !seen;
  $("unshown").hidden = seen;
  resize(seen ? [image.naturalHeight, image.naturalWidth] : [3, 4]);
  own.size = seen ? [image.naturalHeight, image.naturalWidth] : null;
  look();
}

function resize([height, width]) {
  for (const id of ["frame", "mini"]) $(id).style.setProperty("--ratio", width / height);
}

async function example(row) {
  let body;
  await job("predict", () => example(row), async (signal) => {
    body = await ask(row.url, { signal, as: "blob", onBusy });
  });
  if (body) take(new File([body], row.name));
}

// The answer.

const chosen = () => model.protocols[document.querySelector("#protocol-list input:checked").value];
const options = ({ method, scales }) => ({ method, scales: scales.join(), top: model.default.top });

function predict() {
  if (!photo) return;
  const own = photo;
  const protocol = chosen();
  if (own.records.has(protocol)) {
    running.predict?.abort();
    busy("predict", false);
    quiet();
    return show(own.records.get(protocol));
  }
  $("status").textContent = `Computing: ${protocol.title}.`;
  job("predict", predict, async (signal) => {
    const query = options(protocol);
    const answer = await ask("/v1/predict", { query, body: own.body, signal, onBusy });
    const { height, width } = answer.predictions[0];
    own.size ??= [height, width];
    resize(own.size);
    look();
    own.records.set(protocol, { protocol, answer, heat: null });
    cost(protocol, answer.milliseconds.compute);
    quiet();
    show(own.records.get(protocol));
  });
}

function cost(protocol, milliseconds) {
  const row = $("protocol-list").children[model.protocols.indexOf(protocol)];
  row.querySelector(".cost").textContent = `${phrase(milliseconds)} ms`;
}

const percent = (share) => {
  const value = 100 * share;
  if (value > 0 && value < 0.005) return "< 0.01 %";
  return `${value.toFixed(value < 1 ? 2 : 1)} %`;
};

function show(record) {
  const before = shown && selected()?.label;
  shown = record;
  const { answer } = record;
  const { classes } = answer.predictions[0];
  $("bars").replaceChildren(...classes.map((found, i) => {
    const checked = found.label === before;
    const radio = element("input", { type: "radio", name: "class", value: i, checked });
    const fill = element("span");
    fill.style.width = `${100 * found.posterior}%`;
    radio.addEventListener("click", pick);
    return element("label", { className: "class" }, radio,
      element("span", { className: "class-name", textContent: found.class }),
      element("span", { className: "value", textContent: percent(found.posterior) }),
      element("span", { className: "bar" }, fill));
  }));
  const rest = Math.max(0, 1 - classes.reduce((sum, found) => sum + found.posterior, 0));
  const others = model.classes - classes.length;
  $("others").textContent = others > 0 ? `The other ${count(others)} classes: ${percent(rest)}` : "";
  const { queue, compute, total } = answer.milliseconds;
  $("protocol").textContent = `${answer.protocol}. Computed in ${phrase(compute)} ms; `
    + `with ${phrase(queue)} ms of waiting ${phrase(total)} ms in all.`;
  $("status").textContent = `${classes[0].class}, ${percent(classes[0].posterior)}.`;
  $("classes").hidden = false;
  $("heat").hidden = !model.heat_maps;
  $("hint").hidden = true;
  showHeat();
}

const selected = () => {
  const radio = document.querySelector("#bars input:checked");
  return radio && shown.answer.predictions[0].classes[radio.value];
};

// The score map of a class.

function pick() {
  $("heat-on").checked = true;
  showHeat();
}

async function showHeat() {
  if (!shown || !model.heat_maps) return;
  const on = $("heat-on").checked;
  $("heat-controls").hidden = !on;
  if (!on) {
    $("overlay").hidden = true;
    return;
  }
  if (!selected()) document.querySelector("#bars input").checked = true;
  const record = shown;
  const { label, class: name } = selected();
  if (!record.heat) {
    $("overlay").hidden = true;
    $("legend-text").textContent = "Computing the score map…";
    if (!record.asked) await askForHeat(record);
    return;
  }
  const map = record.heat.get(label);
  const scaled = $("own-scale").checked;
  const top = scaled ? map.largest : 255;
  paint($("overlay"), map, top);
  $("overlay").hidden = false;
  $("middle").textContent = scaled ? (top / 510).toFixed(3) : "0.5";
  $("high").textContent = scaled ? (top / 255).toFixed(3) : "1";
  $("legend-text").textContent = scaled && !top
    ? `The posterior of ${name} is below 1/510 everywhere.`
    : `Posterior of ${name} in the dense score map; at most ${(map.largest / 255).toFixed(3)} here.`;
}

async function askForHeat(record) {
  const { body } = photo;
  record.asked = true;
  await job("heat", showHeat, async (signal) => {
    const query = { ...options(record.protocol), heatmap: true };
    const answer = await ask("/v1/predict", { query, body, signal, onBusy });
    record.heat = new Map(await Promise.all(answer.predictions[0].classes.map(
      async (found) => [found.label, await decode(found.heatmap)])));
  });
  record.asked = false;
  if (record.heat && record === shown) showHeat();
  else if (record === shown) $("legend-text").textContent = "";
}

function setOpacity() {
  $("overlay").style.opacity = $("opacity").value / 100;
  $("opacity-value").textContent = `${$("opacity").value} %`;
}

// The net.

const scale = () => chosen().scales[0];

function look(at = layer) {
  layer = at;
  if (!layer) return;
  mark($("stages"), layer, open);
  $("layer-name").textContent = titleOf(layer);
  $("facts").replaceChildren(...facts(layer).map(([name, value]) => element("div", {},
    element("dt", { textContent: name }), element("dd", { textContent: value }))));
  const size = photo?.size;
  $("layer-text").textContent = size ? fieldText(layer, scale(), size)
    : "With a picture: its receptive field.";
  if (size) for (const id of ["field", "mini-field"]) placeField($(id), layer, scale(), size);
}

const showField = (on) => { $("field").hidden = !(on && layer && photo?.size); };

async function openMaps(at) {
  open = at;
  mark($("stages"), layer, open);
  $("activations").hidden = false;
  $("maps-title").textContent = `Strongest activations of ${at.name}`;
  $("maps").replaceChildren();
  if (!photo) {
    $("maps-text").textContent = "Choose a picture first.";
    return;
  }
  $("maps-text").textContent = "Computing…";
  const own = photo;
  await job("maps", () => openMaps(at), async (signal) => {
    const query = { layer: at.name, top: MAPS };
    const found = await ask("/v1/activations", { query, body: own.body, signal, onBusy });
    await drawMaps($("maps"), found);
    $("maps-text").textContent = mapsText(found);
  });
  if (open === at && $("maps-text").textContent === "Computing…") $("maps-text").textContent = "";
}

function closeMaps() {
  running.maps?.abort();
  quiet();
  $("activations").hidden = true;
  document.querySelector(`[data-layer="${open.name}"]`).focus();
  open = null;
  mark($("stages"), layer, open);
}

// Before there is a picture.

function describe() {
  const S = Array.isArray(model.S) ? `S in [${model.S.join("; ")}]` : model.S && `S = ${model.S}`;
  const parts = [`Net ${model.name}`, S, `crop ${model.crop}`, `${count(model.classes)} classes`,
    model.engine, `version ${model.version}`];
  $("about").textContent = parts.filter(Boolean).join(" · ");
  document.title = `${model.name} – vggnet`;
  const total = (part) => model.layers.reduce((sum, row) => sum + row[part], 0);
  $("net-about").textContent = `${count(total("parameters"))} parameters, `
    + `${work(total("multiply_adds"))} multiply-adds for a crop. `
    + "A block’s height is the side of its output (square-root scale), "
    + "its width the number of channels (logarithmic scale). "
    + "Choose a layer for its strongest activations.";
}

function listProtocols() {
  const { method, scales } = model.default;
  const usual = model.protocols.findIndex((row) => row.method === method && `${row.scales}` === `${scales}`);
  const first = Math.max(usual, 0);
  $("protocol-list").replaceChildren(...model.protocols.map((row, i) => {
    const radio = element("input", { type: "radio", name: "protocol", value: i, checked: i === first });
    return element("label", { className: "choice" }, radio,
      element("span", { textContent: row.title }), element("span", { className: "cost" }));
  }));
  let timer;
  $("protocol-list").addEventListener("change", () => {
    // The arrow keys pass over protocols: only the one that they stop at is computed.
    clearTimeout(timer);
    timer = setTimeout(predict, photo?.records.has(chosen()) ? 0 : PATIENCE);
    showCommand();
    look();
  });
  $("protocols").hidden = false;
}

function showCommand() {
  const query = String(new URLSearchParams(options(chosen()))).replaceAll("%2C", ",");
  $("shell").textContent = ["curl", "-H 'Content-Type: application/octet-stream'",
    ...(model.key_needed ? ["-H 'Authorization: Bearer KEY'"] : []),
    "--data-binary @picture.jpg", `'${location.origin}/v1/predict?${query}'`].join(" ");
}

async function listExamples(signal) {
  const { examples } = await ask("/v1/examples", { signal, onBusy });
  $("examples").replaceChildren(...examples.map((row) => {
    const button = element("button", { type: "button", title: row.name },
      element("img", { src: row.url, alt: row.name, loading: "lazy" }));
    button.addEventListener("click", () => example(row));
    return button;
  }));
  $("examples").hidden = !examples.length;
}

function listen() {
  for (const id of ["choose", "zone"]) {
    $(id).addEventListener("click", () => { if (id === "choose" || !photo) $("file").click(); });
  }
  $("file").addEventListener("change", () => {
    const [file] = $("file").files;
    $("file").value = ""; // so that the same file may be chosen again
    if (file) take(file);
  });
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (!file) return;
    event.preventDefault();
    take(file);
  });
  // Anywhere on the page; without this the browser would leave it for the picture.
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    $("zone").classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) $("zone").classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    $("zone").classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (file) take(file);
    else notify("What was dropped is no file. Save the picture first, then drop or choose it.");
  });
  $("heat-on").addEventListener("change", showHeat);
  $("own-scale").addEventListener("change", showHeat);
  $("opacity").addEventListener("input", setOpacity);
  $("close-maps").addEventListener("click", closeMaps);
  $("activations").addEventListener("keydown", (event) => { if (event.key === "Escape") closeMaps(); });
  $("net").addEventListener("pointerleave", () => {
    const focused = model.layers.find((row) => row.name === document.activeElement.dataset.layer);
    if (focused) look(focused);
    showField(focused);
  });
  $("net").addEventListener("focusout", () => showField(false));
}

async function begin() {
  await job("model", begin, async (signal) => {
    model = await ask("/v1/model", { signal, onBusy });
    describe();
    listProtocols();
    showCommand();
    const onLook = (at) => {
      if (at !== layer) look(at);
      showField(true);
    };
    drawNet($("stages"), model.layers, { onLook, onOpen: (at) => { onLook(at); openMaps(at); } });
    $("net").hidden = false;
    look(model.layers[0]);
    paintScale($("scale"));
    setOpacity();
    listen();
    if (model.key_needed) askForKey("This server asks for a key.", predict);
  });
  if (model) job("examples", null, listExamples);
}

begin();
