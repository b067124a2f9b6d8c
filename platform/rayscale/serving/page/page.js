// The page: images come in, one after the other is enlarged, the chosen one is shown.

import { Refusal, address, call, query, send, setKey } from "./api.js";
import { Batches } from "./batches.js";
import { Display, showPoint } from "./display.js";
import { $, bytes, choose, fill, later, make, number, say, seconds } from "./dom.js";
import { filesOf, groupFiles, unpackAll } from "./series.js";
import { largerName, showSnippets } from "./snippets.js";
import { Compare } from "./viewer.js";

const images = [];
let shown = null;
let models = [];
let work = null;

const compare = new Compare({ moved: later((at) => probe(at), 60) });
const display = new Display({ changed: repaint });

// Models, their cards and what an image would take.

async function loadModels() {
  try {
    const found = await (await call("v1/models")).json();
    models = found.models;
    const names = models.map((model) => [model.reference, model.reference]);
    if (!names.some(([name]) => name === found.default)) names.unshift([found.default, found.default]);
    choose($("model"), names, $("model").value || found.default);
    showScales();
    clearProblem();
  } catch (error) {
    showProblem(error, loadModels);
  }
}

function showScales() {
  const model = models.find((each) => each.reference === $("model").value);
  const scales = model ? model.scales : [2];
  choose($("scale"), scales.map((scale) => [scale, `× ${scale}`]), $("scale").value || 2);
  showCard();
  askEstimate();
}

async function showCard() {
  const name = $("model").value;
  try {
    const card = await (await call(`v1/models/${name.split("/").map(encodeURIComponent).join("/")}`)).json();
    if (name !== $("model").value) return;
    const scale = Number($("scale").value);
    const scores = card.scores.filter((score) => !score.scale || score.scale === scale).slice(0, 4);
    const told = (score) => Object.entries(score).filter(([key]) => !["scale"].includes(key))
      .map(([key, value]) => (typeof value === "number" ? `${key} ${number(value)}` : value)).join(", ");
    fill($("card").querySelector("dl"), [
      ["About", card.summary], ["System", card.system],
      ["Channels", card.channels ?? "any"], ["Licence", card.licence],
      ["Trained on", card.data], ["Terms of the data", card.data_licence],
      ...scores.map((score) => ["Score", told(score)]),
      ["Memory", card.memory_per_megapixel[scale] && `${bytes(card.memory_per_megapixel[scale])} for a megapixel`],
      ["Weights", card.weights_sha256.slice(0, 16)],
    ]);
  } catch {
    fill($("card").querySelector("dl"), [["About", "The card is not available at the moment."]]);
  }
}

function options() {
  return {
    model: $("model").value, scale: Number($("scale").value), ensemble: $("ensemble").checked,
    consistency: $("consistency").checked, uncertainty: $("uncertainty").checked,
  };
}

const batches = new Batches({ asked: options });

const askEstimate = later(async () => {
  showList();
  const image = shown || images[0];
  $("estimate").textContent = "";
  if (!image) return;
  const { uncertainty, ...asked } = options();
  try {
    const head = image.file.slice(0, 65536);
    const found = await (await call(`v1/estimate${query({ ...asked, ensemble: asked.ensemble || uncertainty })}`, { body: head })).json();
    const slices = image.files.length;
    image.estimate = found.seconds * slices;
    $("estimate").textContent = `${found.width} × ${found.height} pixels${slices > 1 ? `, ${slices} slices` : ""}, ${seconds(image.estimate)}, `
      + `${bytes(found.memory_bytes)} of memory`;
  } catch (error) {
    // Some headers are not at the start of a file; a refusal is told when the image is sent.
    image.estimate = null;
    if (error.status === 401) showProblem(error, askEstimate);
  }
}, 200);

// Images.

/** An image is a file, or the slices of a series. */
const makeImage = (files) => ({
  file: files[0], files, state: "", view: null, name: files.length > 1 ? `${files[0].name} and ${files.length - 1} more slice${files.length > 2 ? "s" : ""}` : files[0].name,
});

async function addFiles(files) {
  const added = (await groupFiles(files)).map(makeImage);
  images.push(...added);
  if (!images.length) return;
  if (!shown) shown = images[0];
  else if (added.length) [shown] = added;
  batches.show(false);
  showList();
  show();
  askEstimate();
}

function select(image) {
  shown = image;
  batches.show(false);
  showList();
  show();
  askEstimate();
}

const isDone = (image, asked) => Boolean(image.view) && JSON.stringify(image.options) === JSON.stringify(asked);

function showList() {
  const left = images.filter((image) => !isDone(image, options())).length;
  $("go").disabled = !left || work !== null;
  $("go").textContent = left > 1 ? `Upscale ${left} images` : "Upscale";
  $("list").replaceChildren(...images.map((image) => {
    const button = make("button", "", {
      type: "button", "aria-current": String(image === shown),
      onclick: () => select(image),
    });
    const size = image.files.reduce((sum, file) => sum + file.size, 0);
    button.append(make("span", image.name, { class: "name" }), make("span", image.state || bytes(size), { class: "state" }));
    const item = make("li");
    item.append(button);
    return item;
  }));
}

async function upscaleAll(chosen = images) {
  clearProblem();
  const asked = options();
  work = new AbortController();
  $("progress").hidden = false;
  showList();
  const all = [...chosen];
  for (const [at, image] of all.entries()) {
    if (isDone(image, asked)) continue;
    try {
      await upscale(image, asked, all.length > 1 ? `Image ${at + 1} of ${all.length}: ` : "");
    } catch (error) {
      image.state = error.name === "AbortError" ? "cancelled" : "failed";
      if (error.name === "AbortError") break;
      image.problem = error;
      const ours = [0, 401, 429, 503].includes(error.status);
      showProblem(error, () => upscaleAll(chosen), images.length > 1 && !ours ? image.name : "");
      if (ours) break;
    }
  }
  work = null;
  $("progress").hidden = true;
  showList();
  if (!shown.view) show();
}

async function upscale(image, asked, place) {
  const began = performance.now();
  image.state = "working";
  showList();
  try {
    const views = [];
    const several = image.files.length > 1;
    for (const [at, file] of image.files.entries()) {
      const told = several ? `${place}slice ${at + 1} of ${image.files.length}, ` : place;
      views.push(await upscaleFile(file, asked, told, at / image.files.length, 1 / image.files.length, image.estimate / image.files.length));
    }
    image.view = several ? await joinSlices(image, views, asked) : views[0];
    image.options = asked;
    image.state = `× ${asked.scale}`;
    say(`${image.name} is ready`);
    if (shown === image || !shown.view) {
      shown = image;
      show();
    }
  } finally {
    image.took = (performance.now() - began) / 1000;
  }
}

/** Send one file and show how far it is; `from` and `share` say which part of the bar is its. */
async function upscaleFile(file, asked, place, from, share, estimate) {
  let sent = 0;
  let arrived = 0;
  const tick = () => {
    const passed = arrived ? (performance.now() - arrived) / 1000 : 0;
    const total = estimate ? Math.max(estimate * 1.3, 0.5) : null;
    if (sent < 1) {
      $("bar").value = from + share * sent * 0.3;
      $("stage-of-work").textContent = `${place}sending, ${Math.round(sent * 100)} %`;
    } else if (total && passed < total) {
      $("bar").value = from + share * (0.3 + 0.65 * (passed / total));
      $("stage-of-work").textContent = `${place}enlarging, about ${seconds(total - passed)} left`;
    } else {
      if (share === 1) $("bar").removeAttribute("value");
      $("stage-of-work").textContent = `${place}enlarging, ${seconds(passed)} so far`;
    }
  };
  const timer = setInterval(tick, 200);
  tick();
  try {
    return await send(`v1/views${query(asked)}`, file, (part) => {
      sent = part;
      if (part === 1) arrived = performance.now();
    }, work.signal);
  } finally {
    clearInterval(timer);
  }
}

/** The slices as one volume; those that do not fit together become an image each. */
async function joinSlices(image, views, asked) {
  try {
    const body = JSON.stringify({ views: views.map((view) => view.id) });
    return await (await call("v1/views/series", { body, type: "application/json" })).json();
  } catch (error) {
    if (error.status !== 422 && error.status !== 413) throw error;
    const [first, ...others] = image.files.map((file, at) => ({
      ...makeImage([file]), view: views[at], options: asked, state: `× ${asked.scale}`,
    }));
    images.splice(images.indexOf(image) + 1, 0, ...others);
    Object.assign(image, { ...first, problem: error });
    showProblem(error, () => showList(), "The slices are shown one by one");
    return first.view;
  }
}

// The chosen image.

function lead() {
  if (!shown) return "Drop an image to enlarge it";
  return shown.state === "failed" ? `${shown.name} could not be enlarged` : `${shown.name} is ready to be enlarged`;
}

function show() {
  const view = shown && shown.view;
  for (const id of ["display", "pixel", "outcome", "viewer", "handle", "tag-before", "tag-after", "tools"]) $(id).hidden = !view;
  $("empty").hidden = Boolean(view);
  $("empty").querySelector(".lead").textContent = lead();
  if (!view) return;
  compare.open(view);
  display.open(view);
  choose($("overlay"), [["", "None"], ...view.overlays.map((name) => [name, name === "uncertainty" ? "Uncertainty" : "Consistency error"])]);
  $("legend").hidden = true;
  const { before, after } = view;
  $("column").value = Math.floor(after.width / 2);
  $("row").value = Math.floor(after.height / 2);
  repaint();
  compare.setSplit(compare.split);
  fill($("facts"), [
    ["Source", `${before.width} × ${before.height}${before.slices > 1 ? ` × ${before.slices}` : ""}, ${before.channels.length} × ${before.type}`],
    ["Result", `${after.width} × ${after.height}, ${bytes(view.bytes)}, ${view.container.toUpperCase()}`],
    ["Model", `${view.model}, scale ${view.scale}`],
    ["Time", `${view.seconds.total.toFixed(view.seconds.total < 10 ? 2 : 0)} s`],
    ["Residual", view.residual && `largest ${number(view.residual.max)}, RMS ${number(view.residual.rms)} stored units`],
  ]);
  $("notes").replaceChildren(...view.notes.map((note) => make("li", note)));
  $("download-uncertainty").hidden = !view.overlays.includes("uncertainty");
  $("scores").replaceChildren();
  $("reference").value = "";
  $("column").max = after.width - 1;
  $("row").max = after.height - 1;
  showSnippets(shown.files.map((file) => file.name), shown.options);
}

function repaint() {
  const { view } = shown;
  for (const layer of ["before", "after"]) compare.paint(layer, { layer, ...view[layer] }, display.values());
  paintOverlay();
  probe({ column: Number($("column").value), row: Number($("row").value) });
}

async function paintOverlay() {
  const { view } = shown;
  const layer = $("overlay").value;
  if (!layer) {
    $("legend").hidden = true;
    compare.paint("overlay", null);
    return;
  }
  try {
    const picture = await (await call(`v1/views/${view.id}/layers/${layer}`)).json();
    const { white } = picture.stretches["2 to 98 %"];
    const unit = view.before.units[0];
    compare.paint("overlay", { layer, ...picture }, {
      slice: $("slice").value, bands: 0, black: 0, white: Math.max(white[0], 1e-9), heat: true,
    }, Number($("opacity").value));
    $("legend").hidden = false;
    const most = Math.abs(white[0] * unit.scale);
    $("legend").textContent = most < 1e-6 ? "It is 0 nearly everywhere." : `Violet is 0, yellow ${number(Number(most.toPrecision(3)))} ${unit.name || "stored units"} or more.`;
  } catch (error) {
    showProblem(error, paintOverlay);
  }
}

async function probe(at) {
  const { view } = shown || {};
  if (!view) return;
  try {
    const point = await (await call(`v1/views/${view.id}/point${query({ row: String(at.row), column: String(at.column), slice: $("slice").value })}`)).json();
    if (shown.view === view) showPoint(view, point, at);
  } catch (error) {
    if (error instanceof Refusal) fill($("values"), [["", error.message]]);
  }
}

async function download(layer) {
  const { view, file, files } = shown;
  try {
    const blob = await (await call(`v1/views/${view.id}/files/${layer}`)).blob();
    const single = largerName(file.name, view.scale);
    const name = files.length > 1 ? `${single.replace(/\.[^.]+$/, "")}.zip` : single;
    const link = make("a");
    link.href = URL.createObjectURL(blob);
    const plain = name.replace(/(\.nii)?(\.[^.]+)?$/, "");
    link.download = layer === "after" ? name : `${plain}.uncertainty${/\.nii/.test(name) ? ".nii" : ".tif"}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    say(`${link.download} is saved`);
  } catch (error) {
    showProblem(error, () => download(layer));
  }
}

async function compareWith(file) {
  const { view } = shown;
  try {
    const scores = await (await call(`v1/views/${view.id}/reference`, { body: file, type: "application/octet-stream" })).json();
    const table = make("table");
    const head = make("tr");
    for (const name of ["Protocol", "PSNR", "SSIM"]) head.append(make("th", name, { scope: "col" }));
    table.append(make("thead"), make("tbody"));
    table.tHead.append(head);
    for (const score of scores) {
      const row = make("tr");
      row.append(make("th", score.description.split(":")[0], { scope: "row" }));
      row.append(make("td", score.psnr === null ? "equal" : `${score.psnr.toFixed(2)} dB`), make("td", score.ssim.toFixed(4)));
      table.tBodies[0].append(row);
    }
    $("scores").replaceChildren(table);
  } catch (error) {
    $("scores").replaceChildren(make("p", error.message));
  }
}

// Problems, in words.

function showProblem(error, again, name = "") {
  if (!(error instanceof Refusal)) throw error;
  const lines = [make("p", name ? `${name}: ${error.message}` : error.message)];
  if (error.status === 401) lines.push(make("p", "Enter your key above."));
  else if (error.hint) lines.push(make("p", error.hint));
  if (error.wait) lines.push(make("p", `The service asks to wait ${error.wait} s.`));
  lines.push(make("button", "Try again", { type: "button", onclick: () => { clearProblem(); again(); } }));
  $("problem").replaceChildren(...lines);
  if (error.status === 401) openKey(true);
}

const clearProblem = () => $("problem").replaceChildren();

function openKey(open) {
  $("key-box").hidden = !open;
  $("key-open").setAttribute("aria-expanded", String(open));
  if (open) $("key").focus();
}

// Events.

$("files").addEventListener("change", async (event) => {
  const files = [...event.target.files];
  event.target.value = "";
  addFiles(await unpackAll(files));
});
let sample = null;

/** The image of the sample, shown; it comes into the list once. */
async function showSample() {
  if (!sample) {
    const blob = await (await fetch(address("page/sample.png"))).blob();
    await addFiles([new File([blob], "sample.png", { type: "image/png" })]);
    sample = shown;
  }
  select(sample);
}

$("sample").addEventListener("click", showSample);
$("card-sample").addEventListener("click", async () => {
  await showSample();
  if (!work) upscaleAll([sample]);
});
$("batches-open").addEventListener("click", () => batches.show($("batches").hidden));
$("model").addEventListener("change", showScales);
$("scale").addEventListener("change", () => { showCard(); askEstimate(); });
for (const name of ["ensemble", "consistency", "uncertainty"]) $(name).addEventListener("change", askEstimate);
$("options").addEventListener("submit", (event) => { event.preventDefault(); if (!work) upscaleAll(); });
$("cancel").addEventListener("click", () => work && work.abort());
$("overlay").addEventListener("change", paintOverlay);
$("opacity").addEventListener("input", (event) => compare.setOpacity(Number(event.target.value)));
$("smooth").addEventListener("change", (event) => compare.setSmooth(event.target.checked));
$("zoom-in").addEventListener("click", () => compare.zoom(1.6));
$("zoom-out").addEventListener("click", () => compare.zoom(1 / 1.6));
$("zoom-fit").addEventListener("click", () => compare.fit());
$("zoom-one").addEventListener("click", () => compare.one());
$("download").addEventListener("click", () => download("after"));
$("download-uncertainty").addEventListener("click", () => download("uncertainty"));
$("reference").addEventListener("change", (event) => event.target.files[0] && compareWith(event.target.files[0]));
for (const name of ["column", "row"]) {
  $(name).addEventListener("change", () => probe({ column: Number($("column").value), row: Number($("row").value) }));
}
$("key-open").addEventListener("click", () => openKey($("key-box").hidden));
$("key-box").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey($("key").value);
  openKey(false);
  loadModels();
});
document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
document.addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dropping"));
document.addEventListener("drop", async (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  addFiles(await filesOf(event.dataTransfer.items));
});

loadModels();
