// Controls, and what happens when one is used: change the state, look again, draw again.

let waiting = false;
let listening = false;

function change(parts) {
  Object.assign(state, parts);
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    drawAll();
  });
}

// A change of the rows puts the table back to its first page.
const refilter = (parts) => change({ ...parts, page: 0 });

function choose(i) {
  change({ at: data.configuration[i] });
  requestAnimationFrame(() => byId("panel").querySelector("h2")?.focus({ preventScroll: innerWidth > 900 }));
}

const closePanel = () => change({ at: null });

function drawAll() {
  look();
  drawCells();
  drawEnergies();
  drawFilters();
  drawAxes();
  drawInputs();
  drawWarning();
  byId("summary").textContent = summaryText();
  drawViews();
  drawPanel(closePanel);
  const plotted = state.view === "plot";
  byId("plot-view").hidden = !plotted;
  byId("table-view").hidden = plotted;
  if (plotted) {
    drawLegend();
    drawPlot();
    if (!listening) listenToPlot(choose); // not before: the library makes the plot's events when it draws first
    listening = true;
    Plotly.Plots.resize("plot");
  } else drawTable(choose, change);
  writeAddress();
}

function drawCells() {
  const box = byId("cells");
  const now = data.cells[state.cell];
  const parts = CELL.map((part, k) => {
    const levels = [...new Set(data.cells.map((cell) => cell[k]))];
    if (levels.length === 1) return element("span", {}, element("span", { class: "name" }, part), element("b", {}, now[k]));
    const pick = (event) => {
      const wanted = now.slice();
      wanted[k] = event.target.value;
      const cell = nearestCell(wanted, k);
      refilter({ cell, energy: anyOf(valuesOf(energyColumn()), rowsOfCell(cell)) ? state.energy : defaultEnergy(cell) });
    };
    const options = levels.map((level) => element("option", { value: level, selected: level === now[k] }, level));
    return element("span", {}, element("label", { for: `cell-${part}`, class: "name" }, part), element("select", { id: `cell-${part}`, onchange: pick }, ...options));
  });
  keepFocus(box, () => box.replaceChildren(...parts));
}

// Rebuilding a group of controls must not take the keyboard's place away.
function keepFocus(box, rebuild) {
  const focused = box.contains(document.activeElement) ? document.activeElement.id : null;
  rebuild();
  if (focused) byId(focused)?.focus();
}

function radios(box, name, options, now, pick) {
  keepFocus(box, () =>
    box.replaceChildren(...options.map(([value, label, disabled]) => {
      const input = element("input", { type: "radio", name, id: `${name}-${value}`, value, checked: value === now, disabled: Boolean(disabled), onchange: () => pick(value) });
      return element("label", { for: `${name}-${value}` }, input, label);
    })));
}

function drawEnergies() {
  const options = Object.entries(ENERGIES).map(([kind, column]) => {
    const known = anyOf(valuesOf(column), view.inCell);
    return [kind, known ? `${modelled(view.evidence)}${kind}` : `${kind} (none here)`, !known];
  });
  radios(byId("energies"), "energy", options, state.energy, (energy) => refilter({ energy }));
}

function drawViews() {
  radios(byId("views"), "view", [["plot", "Plot"], ["table", "Table"]], state.view, (picked) => change({ view: picked }));
}

function drawFilters() {
  const box = byId("filters");
  const groups = view.knobs.map((knob, k) => {
    const out = new Set(state.not[knob.name] || []);
    const levels = [...new Set(view.inCell.map((i) => knob.codes[i]))].filter((code) => code >= 0).sort((a, b) => a - b);
    const boxes = levels.map((code) => {
      const level = knob.levels[code];
      const toggle = (event) => {
        if (event.target.checked) out.delete(level);
        else out.add(level);
        refilter({ not: { ...state.not, [knob.name]: [...out] } });
      };
      const id = `knob-${k}-${code}`;
      return element("label", { for: id }, element("input", { type: "checkbox", id, checked: !out.has(level), onchange: toggle }), element("span", {}, level));
    });
    return element("fieldset", { "data-knob": knob.name }, element("legend", {}, knob.name), ...boxes);
  });
  keepFocus(box, () => box.replaceChildren(...(groups.length ? groups : [element("p", { class: "hint" }, "No knob varies in this cell.")])));
}

function drawAxes() {
  const objective = ["pas", "latency_p99_s", "usd_per_1000_requests", "energy"];
  const others = [...data.metrics.keys()].filter((name) => !objective.includes(name));
  const option = (name, label, now) => element("option", { value: name, selected: name === now }, label);
  const group = (label, names, now, of) => names.length ? [element("optgroup", { label }, ...names.map((name) => option(name, of(name), now)))] : [];
  const knobNames = (numeric) => view.knobs.filter((knob) => knob.numeric || !numeric).map((knob) => knob.name);
  const known = new Set([...objective, ...others, ...data.knobs.map((knob) => knob.name), "status", "none"]);
  const fresh = freshState();
  for (const key of ["x", "y", "colour", "size"]) if (!known.has(state[key])) state[key] = fresh[key];
  for (const key of ["x", "y", "size"]) if (state[key] !== "none" && !axisValues(state[key]) && state[key] !== "energy" && !objective.includes(state[key])) state[key] = fresh[key];
  for (const key of ["x", "y"]) if (state[key] === "none" || state[key] === "status") state[key] = fresh[key];
  for (const [id, extra, numeric] of [["x", [], true], ["y", [], true], ["colour", [["status", "front"]], false], ["size", [["none", "all the same"]], true]]) {
    byId(id).replaceChildren(
      ...extra.map(([name, label]) => option(name, label, state[id])),
      ...group("Objectives", objective, state[id], labelOf),
      ...group("Knobs", knobNames(numeric), state[id], (name) => name),
      ...group("Other metrics", others, state[id], labelOf),
    );
  }
  for (const key of ["xlog", "ylog", "ci"]) byId(key).checked = state[key];
}

function drawInputs() {
  for (const key of ["sla", "rate"]) {
    const field = byId(key);
    if (positive(field.value) !== state[key]) field.value = state[key] === null ? "" : String(state[key]);
  }
  if (raw.inputs.length) {
    const same = raw.inputs.findIndex((given) => given.rate_rps === state.rate && (given.sla_s ?? null) === state.sla);
    byId("preset").value = String(same);
    const hint = same >= 0 && (raw.inputs[same].sla_s ?? null) === null;
    byId("input-hint").textContent = hint ? "The config gives no SLA for this input, so latency is not bounded here." : "";
  }
}

function drawWarning() {
  const parts = [];
  if (raw.nothing) parts.push(raw.nothing);
  if (view.evidence === "estimated") parts.push("All energy here is estimated from a model of power, not measured: it follows busy time by construction.");
  if (view.evidence === "mixed") parts.push("Part of the energy here is estimated, not measured.");
  if (data.cells[state.cell][CELL.indexOf("weights")] === "random")
    parts.push("Random weights ran: accuracies are those published for the trained models.");
  byId("warning").textContent = parts.join(" ");
  byId("warning").hidden = !parts.length;
}

// Legend and choice at once: how many of each status, and whether they are drawn.
function drawLegend() {
  const box = byId("legend");
  const title = box.querySelector("legend");
  const entries = STATUS.map((status, code) => {
    if (!view.count[code]) return null;
    const toggle = (event) =>
      change({ hide: event.target.checked ? state.hide.filter((key) => key !== status.key) : [...state.hide, status.key] });
    const id = `show-${status.key}`;
    const input = element("input", { type: "checkbox", id, checked: !state.hide.includes(status.key), onchange: toggle });
    const text = status.text.replace("because of energy", `because of ${modelled(view.evidence)}${state.energy} energy`);
    return element("label", { for: id }, input, marker(status), `${text}: ${view.count[code]}`);
  });
  keepFocus(box, () => box.replaceChildren(title, ...entries.filter(Boolean)));
}

const SHAPES = {
  circle: "M8 3a5 5 0 1 0 .01 0z", diamond: "M8 1l7 7-7 7-7-7z", square: "M3 3h10v10h-10z", "triangle-up": "M8 2l6.5 11h-13z",
  "circle-open": "M8 4a4 4 0 1 0 .01 0z", x: "M3 5l2-2 3 3 3-3 2 2-3 3 3 3-2 2-3-3-3 3-2-2 3-3z", "cross-thin-open": "M8 2v12M2 8h12",
};

function marker(status) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  const open = status.symbol.endsWith("open");
  for (const [name, value] of Object.entries({ viewBox: "0 0 16 16", width: 15, height: 15, "aria-hidden": "true" })) svg.setAttribute(name, value);
  const colour = state.colour === "status" ? status.colour : "#444444";
  for (const [name, value] of Object.entries({ d: SHAPES[status.symbol], fill: open ? "none" : colour, stroke: colour, "stroke-width": open ? 1.6 : 0 })) path.setAttribute(name, value);
  svg.append(path);
  return svg;
}

function listen() {
  for (const key of ["x", "y", "colour", "size"]) byId(key).addEventListener("change", (event) => change({ [key]: event.target.value }));
  for (const key of ["xlog", "ylog", "ci"]) byId(key).addEventListener("change", (event) => change({ [key]: event.target.checked }));
  for (const key of ["sla", "rate"]) byId(key).addEventListener("input", (event) => refilter({ [key]: positive(event.target.value) }));
  byId("preset").addEventListener("change", (event) => {
    const given = raw.inputs[Number(event.target.value)] || { rate_rps: null, sla_s: null };
    refilter({ rate: given.rate_rps ?? null, sla: given.sla_s ?? null });
  });
  byId("reset").addEventListener("click", () => refilter({ not: {}, sla: null, rate: null, hide: [] }));
  byId("download").addEventListener("click", download);
  addEventListener("keydown", (event) => { if (event.key === "Escape" && state.at !== null) closePanel(); });
  addEventListener("hashchange", () => {
    state = readAddress(location.hash);
    change({});
  });
}

function start() {
  if (raw.limitations.length) {
    const box = byId("limits");
    box.hidden = false;
    box.querySelector("summary").textContent = `Limitations (${raw.limitations.length})`;
    box.querySelector("ul").append(...raw.limitations.map((text) => element("li", {}, text)));
  }
  if (!data.n) {
    byId("nothing").textContent = raw.nothing;
    byId("nothing").hidden = false;
    return;
  }
  byId("app").hidden = false;
  if (raw.confidence) byId("ci-label").textContent = `${Number((100 * raw.confidence).toPrecision(4))} % intervals of the means`;
  if (raw.inputs.length) {
    byId("presets").hidden = false;
    const labels = raw.inputs.map((given) => `${given.name} (${[given.rate_rps === null ? null : `${given.rate_rps} requests/s`, given.sla_s === null ? null : `${given.sla_s} s`].filter(Boolean).join(", ")})`);
    byId("preset").append(element("option", { value: "-1" }, "none or my own"), ...labels.map((label, k) => element("option", { value: String(k) }, label)));
  }
  state = readAddress(location.hash);
  if (!anyOf(valuesOf(energyColumn()), rowsOfCell(state.cell)) && !location.hash) state.y = "usd_per_1000_requests";
  if (raw.nothing && !location.hash) state.view = "table";
  listen();
  drawAll();
  document.documentElement.dataset.ready = "yes";
}

// For tests, and for whoever wants to look inside.
window.explorer = {
  data, paretoMask, csvText, choose, get state() { return state; }, get view() { return view; },
};

start();
