"use strict";

const $ = (id) => document.getElementById(id);
const RECIPES = { "f32": "f32", "lmul": "lmul", "pam": "pam", "shift-add": "shiftadd-2", "lut": "lut-2" };
let token = "";

async function ask(path, body) {
  const headers = { "content-type": "application/json" };
  if (token) headers.authorization = "Bearer " + token;
  const options = body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers };
  const response = await fetch(path, options);
  if (response.status === 401) $("token-form").hidden = false;
  const found = await response.json();
  if (!response.ok) throw new Error(found.error || response.statusText);
  return found;
}

function time(seconds) {
  if (seconds === null) return "not known";
  for (const [unit, size] of [["s", 1], ["ms", 1e-3], ["µs", 1e-6]]) {
    if (seconds >= size) return (seconds / size).toPrecision(3) + " " + unit;
  }
  return (seconds / 1e-9).toPrecision(3) + " ns";
}

function joules(picojoules) {
  if (picojoules === null) return "not known";
  let value = picojoules, unit = "pJ";
  for (const next of ["nJ", "µJ", "mJ", "J"]) {
    if (value < 1000) break;
    value /= 1000;
    unit = next;
  }
  return value.toPrecision(3) + " " + unit;
}

function size(bytes) {
  if (bytes === null) return "not known";
  let value = bytes, unit = "B";
  for (const next of ["KB", "MB", "GB", "TB"]) {
    if (value < 1000) break;
    value /= 1000;
    unit = next;
  }
  return (unit === "B" ? value : value.toPrecision(3)) + " " + unit;
}

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== null) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function fill(select, values) {
  select.replaceChildren(...values.map((value) => element("option", value, { value })));
}

function table(target, heads, rows) {
  const head = element("tr", null);
  head.append(...heads.map((text, i) => element("th", text, { scope: "col", class: i ? "" : "text" })));
  const body = rows.map((row) => {
    const made = element("tr", null);
    made.append(...row.map((text, i) => element("td", text, { class: i ? "" : "text" })));
    return made;
  });
  target.replaceChildren(head, ...body);
}

function say(id, text, isWrong = false) {
  $(id).textContent = text;
  $(id).className = isWrong ? "wrong" : "";
}

// From the best time (dark) to twelve times as long (light): even steps of its logarithm.
function colour(ratio) {
  const t = Math.min(1, Math.log(ratio) / Math.log(12));
  const stops = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
  const at = t * (stops.length - 1), i = Math.min(stops.length - 2, Math.floor(at)), f = at - i;
  const rgb = stops[i].map((low, c) => Math.round(low + f * (stops[i + 1][c] - low)));
  return { background: `rgb(${rgb})`, color: t > 0.55 ? "#000" : "#fff" };
}

function sizes() {
  const shape = ["batch", "m", "n", "k"].map((id) => {
    const text = $(id).value.trim();
    if (!/^[1-9][0-9]{0,8}$/.test(text)) {
      $(id).focus();
      throw new Error(`${id.toUpperCase()} must be a whole number from 1 on`);
    }
    return Number(text);
  });
  return shape;
}

async function predict() {
  say("tile-status", "…");
  let chosen, shape;
  const form = $("form").value;
  try {
    shape = sizes();
    const matmul = { form, shape, target: $("target").value, lowering: $("lowering").value };
    const found = await ask("v1/choose-tiles", { matmuls: [matmul], all: true, top: 10 });
    chosen = found.matmuls[0];
  } catch (error) {
    say("tile-status", error.message, true);
    $("tile-result").hidden = true;
    return;
  }
  const state = { form, shape: shape.join("x"), target: $("target").value, lowering: $("lowering").value };
  history.replaceState(null, "", "#" + new URLSearchParams(state));
  say("tile-status", `${chosen.count} tiles, by ${chosen.model} for ${chosen.target}`);
  $("tile-result").hidden = false;
  const gain = chosen.default_seconds / chosen.seconds;
  $("choice").textContent = `Tile ${chosen.tile}: ${time(chosen.seconds)}` +
    (chosen.is_default ? ", the default. " : `, ${gain.toFixed(2)} times as fast as the default. `) +
    chosen.reason;
  showLimits(chosen);
  showMap(chosen);
  table($("best"), ["tile", "time", "± %", "in registers", "of a workgroup"], chosen.best.map((one) => [
    one.tile, time(one.seconds), (100 * one.spread).toFixed(1), block(one.rows, one.columns),
    block(one.block_rows, one.block_columns),
  ]));
  await showEnergy(form, shape);
}

function block(rows, columns) {
  return rows ? `${rows} × ${columns}` : "IREE's";
}

function showLimits(chosen) {
  const limits = chosen.limits;
  const longest = Math.max(chosen.seconds, limits.memory_seconds, limits.operation_seconds);
  const bar = (name, seconds) => {
    const row = element("div", null, { class: "bar" });
    const line = element("i", null);
    line.style.width = 100 * seconds / longest + "%";
    row.append(element("span", name), line, element("span", time(seconds)));
    return row;
  };
  const share = Math.max(limits.memory_seconds, limits.operation_seconds) / chosen.seconds;
  const said = element("p", `Limited by ${limits.by}: ${size(limits.bytes_moved)} to move, ` +
    `${limits.products.toLocaleString("en")} products; the limit is ${(100 * share).toFixed(0)} % of the time.`,
    { id: "limited-by" });
  $("limits").replaceChildren(said, bar("predicted", chosen.seconds),
    bar("bytes", limits.memory_seconds), bar("operations", limits.operation_seconds));
}

function showMap(chosen) {
  const downs = new Map(), acrosses = new Map(), cells = new Map();
  for (const one of chosen.tiles) {
    const inside = one.rows ? [one.block_rows / one.rows, one.block_columns / one.columns] : [0, 0];
    const down = block(one.rows, one.columns), across = block(...inside.map(Math.ceil));
    downs.set(down, [one.rows, one.columns]);
    acrosses.set(across, inside);
    const key = down + "|" + across;
    if (!cells.has(key) || cells.get(key).seconds > one.seconds) cells.set(key, one);
  }
  const order = (map) => [...map].sort((a, b) => a[1][0] - b[1][0] || a[1][1] - b[1][1]).map((e) => e[0]);
  const columns = order(acrosses), best = Math.min(...chosen.tiles.map((one) => one.seconds));
  const head = element("tr", null);
  head.append(element("th", ""), ...columns.map((text) => element("th", text, { scope: "col" })));
  const rows = order(downs).map((down) => {
    const row = element("tr", null);
    row.append(element("th", down, { scope: "row" }));
    for (const across of columns) {
      const one = cells.get(down + "|" + across);
      const cell = element("td", one ? (one.seconds / best).toFixed(2) : "–", { tabindex: -1, role: "gridcell" });
      if (one) {
        Object.assign(cell.style, colour(one.seconds / best));
        cell.className = one.seconds === best ? "best" : "";
        const text = `${one.tile}: ${time(one.seconds)} ± ${(100 * one.spread).toFixed(1)} %, ${down} in ` +
          `registers, ${block(one.block_rows, one.block_columns)} of a workgroup`;
        cell.title = text;
        cell.setAttribute("aria-label", text);
      } else {
        cell.className = "empty";
      }
      row.append(cell);
    }
    return row;
  });
  $("map").replaceChildren(head, ...rows);
  const first = $("map").querySelector("td.best");
  if (first) first.tabIndex = 0;
  $("cell").textContent = first ? first.title : "";
}

function walk(event) {
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0],
    Home: [0, -999], End: [0, 999] };
  const step = steps[event.key], cell = event.target.closest("td");
  if (!step || !cell) return;
  event.preventDefault();
  const rows = [...$("map").rows].slice(1), row = rows.indexOf(cell.parentElement);
  const clamp = (value, most) => Math.max(0, Math.min(most, value));
  const across = clamp(cell.cellIndex - 1 + step[1], cell.parentElement.cells.length - 2);
  const next = rows[clamp(row + step[0], rows.length - 1)].cells[across + 1];
  cell.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
  $("cell").textContent = next.title || "no tile";
}

// A module with this one product, so that its operations are counted as the compiler counts them.
function moduleOf(form, [batch, m, n, k]) {
  const isWeight = /^w|shift-add|lut|ternary/.test(form) || batch === 1;
  const type = (...dims) => `tensor<${dims.join("x")}xf32>`;
  const head = "  %c = arith.constant 0.0 : f32\n";
  if (!isWeight) {
    const [x, y, r] = [type(batch, m, k), type(batch, k, n), type(batch, m, n)];
    return `func.func @main(%x: ${x}, %y: ${y}) -> ${r} {\n${head}` +
      `  %e = tensor.empty() : ${r}\n  %f = linalg.fill ins(%c : f32) outs(%e : ${r}) -> ${r}\n` +
      `  %r = linalg.batch_matmul ins(%x, %y : ${x}, ${y}) outs(%f : ${r}) -> ${r}\n  return %r : ${r}\n}\n`;
  }
  const rows = batch * m, [x, w, t, r] = [type(rows, k), type(n, k), type(k, n), type(rows, n)];
  return `util.global private @w = #flow.parameter.named<"model"::"w"> : ${w}\n` +
    `func.func @main(%x: ${x}) -> ${r} {\n  %w = util.global.load @w : ${w}\n${head}` +
    `  %e = tensor.empty() : ${r}\n  %f = linalg.fill ins(%c : f32) outs(%e : ${r}) -> ${r}\n` +
    `  %s = tensor.empty() : ${t}\n` +
    `  %t = linalg.transpose ins(%w : ${w}) outs(%s : ${t}) permutation = [1, 0]\n` +
    `  %r = linalg.matmul ins(%x, %t : ${x}, ${t}) outs(%f : ${r}) -> ${r}\n  return %r : ${r}\n}\n`;
}

async function showEnergy(form, shape) {
  const names = [...$("recipe").options].map((option) => option.value);
  const recipe = RECIPES[form] || form;
  if (!names.includes(recipe)) {
    say("energy", "Energy: no built-in recipe has this form.");
    return;
  }
  say("energy", "Energy: …");
  try {
    const found = await ask("v1/estimate", { mlir: moduleOf(form, shape), recipe });
    const one = found.matmuls[0];
    const now = one.energy_picojoules, exact = one.energy_exact_picojoules;
    const change = exact ? ` (${(100 * (now / exact - 1)).toFixed(1)} %)` : "";
    say("energy", `Energy of its arithmetic: ${joules(now)} as ${form}, ` +
      `${joules(exact)} with f32 multiplications${change}, by the prices of ${found.energy.table}.`);
  } catch (error) {
    say("energy", "Energy: " + error.message, true);
  }
}

async function estimate() {
  say("mlir-status", "…");
  try {
    const found = await ask("v1/estimate", {
      mlir: $("mlir").value, recipe: $("recipe").value, target: $("mlir-target").value,
    });
    say("mlir-status", `${found.matmuls.length} matmuls`);
    $("mlir-result").hidden = false;
    const energy = found.energy, saved = energy.saving === null ? "" :
      ` (${(-100 * energy.saving).toFixed(1)} % against f32)`;
    $("totals").textContent = `Time of the matmuls: ${time(found.seconds)}. Energy: ` +
      `${joules(energy.arithmetic + energy.guards)} of arithmetic${saved}, ${joules(energy.memory)} of memory. ` +
      `Moved: ${size(found.bytes_moved)}; weights: ${size(found.weight_bytes)}.`;
    table($("matmuls"), ["matmul", "shape", "form", "tile", "time", "moved", "energy", "as f32"],
      found.matmuls.map((one) => [one.name, one.shape, one.form, one.tile || "", time(one.seconds),
        size(one.bytes_moved), joules(one.energy_picojoules), joules(one.energy_exact_picojoules)]));
  } catch (error) {
    say("mlir-status", error.message, true);
    $("mlir-result").hidden = true;
  }
}

async function begin() {
  try {
    const known = await ask("v1/known");
    fill($("form"), known.forms);
    fill($("target"), known.units.length ? known.units : ["cpu"]);
    fill($("recipe"), known.recipes);
    fill($("mlir-target"), known.targets);
  } catch (error) {
    say("tile-status", error.message, true);
    return;
  }
  const asked = new URLSearchParams(location.hash.slice(1));
  for (const id of ["form", "target", "lowering"]) {
    if (asked.has(id)) $(id).value = asked.get(id);
  }
  const shape = (asked.get("shape") || "").split("x");
  if (shape.length === 4) ["batch", "m", "n", "k"].forEach((id, i) => { $(id).value = shape[i]; });
  $("mlir").value = moduleOf("f32", [1, 128, 1536, 384]);
  if (asked.has("shape")) predict();
}

function onSubmit(id, action) {
  $(id).addEventListener("submit", (event) => {
    event.preventDefault();
    action();
  });
}

onSubmit("tile-form", predict);
onSubmit("mlir-form", estimate);
onSubmit("token-form", () => {
  token = $("token").value;
  begin();
});
$("map").addEventListener("keydown", walk);
$("map").addEventListener("focusin", (event) => {
  $("cell").textContent = event.target.title || "no tile";
});
$("mlir").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) estimate();
});
begin();
