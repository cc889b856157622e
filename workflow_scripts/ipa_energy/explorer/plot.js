// The scatter plot: one trace per status, so that marker and colour tell them apart, and our own tool tip.

const SERIES = ["#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000", "#F0E442"];
const UNKNOWN = "#BBBBBB";
const SVG_UP_TO = 3000; // points that are drawn without WebGL, which not every machine has
const BARS_UP_TO = 3000;
const [LEAST_SIZE, MOST_SIZE] = [6, 26];

function hasWebGl() {
  try {
    return document.createElement("canvas").getContext("webgl") !== null;
  } catch {
    return false;
  }
}
const webGl = data.n > SVG_UP_TO && hasWebGl();

// Numbers along an axis, of a metric or of a knob that is a number.
function axisValues(name) {
  const metric = data.metrics.get(columnOf(name));
  if (metric) return metric;
  const knob = data.knobs.find((one) => one.name === name && one.numeric);
  return knob ? { label: knob.name, energy: false, values: knobNumbers(knob), lo: null, hi: null } : null;
}

function rangeOf(values, rows) {
  let [least, most] = [Infinity, -Infinity];
  for (const i of rows) {
    if (!Number.isFinite(values[i])) continue;
    least = Math.min(least, values[i]);
    most = Math.max(most, values[i]);
  }
  return [least, most];
}

function drawn(axes, rows) {
  const lost = {};
  const kept = rows.filter((i) => {
    for (const [name, axis, log] of axes) {
      const value = axis.values[i];
      const why = !Number.isFinite(value) ? `no figure of ${name}` : log && value <= 0 ? `${name} not above 0 on a log axis` : null;
      if (why) {
        lost[why] = (lost[why] || 0) + 1;
        return false;
      }
    }
    return true;
  });
  return [kept, lost];
}

// Colours of a knob's levels (the first eight in colours of their own) or of a metric, as plotly wants them.
function colouring(rows) {
  const knob = data.knobs.find((one) => one.name === state.colour);
  if (knob) {
    const used = [...new Set(rows.map((i) => knob.codes[i]))].filter((code) => code >= 0).sort((a, b) => a - b);
    const colour = new Map(used.map((code, at) => [code, at < SERIES.length ? SERIES[at] : UNKNOWN]));
    const legend = used.slice(0, SERIES.length).map((code) => [colour.get(code), knob.levels[code]]);
    if (used.length > SERIES.length) legend.push([UNKNOWN, `${used.length - SERIES.length} other levels`]);
    return { of: (i) => colour.get(knob.codes[i]) || UNKNOWN, legend, label: knob.name };
  }
  const metric = state.colour === "status" ? null : axisValues(state.colour);
  if (!metric) return null;
  const unknown = rows.some((i) => !Number.isFinite(metric.values[i]));
  return { metric, legend: unknown ? [[UNKNOWN, "not known"]] : [], label: labelOf(state.colour) };
}

function sizing(axis, rows) {
  if (!axis) return null;
  const [least, most] = rangeOf(axis.values, rows);
  const span = most - least;
  const [small, large] = [LEAST_SIZE ** 2, MOST_SIZE ** 2];
  return (i) => Math.sqrt(span > 0 ? small + ((axis.values[i] - least) / span) * (large - small) : (small + large) / 2);
}

function errorBars(axis, rows) {
  if (!axis.lo || !axis.hi) return undefined;
  const part = (f) => rows.map((i) => (Number.isFinite(axis.lo[i]) && Number.isFinite(axis.hi[i]) ? f(i) : 0));
  return {
    type: "data", symmetric: false, thickness: 1, width: 2, color: "rgba(60,60,60,0.5)",
    array: part((i) => axis.hi[i] - axis.values[i]), arrayminus: part((i) => axis.values[i] - axis.lo[i]),
  };
}

function traceOf(code, rows, x, y, colour, size, bars) {
  const status = STATUS[code];
  const own = colour === null ? status.colour : colour.metric ? rows.map((i) => colour.metric.values[i]) : rows.map(colour.of);
  const open = status.symbol.endsWith("open");
  return {
    type: webGl ? "scattergl" : "scatter", mode: "markers", name: status.key, hoverinfo: "none", showlegend: false,
    x: rows.map((i) => x.values[i]), y: rows.map((i) => y.values[i]), customdata: rows,
    error_x: bars ? errorBars(x, rows) : undefined, error_y: bars ? errorBars(y, rows) : undefined,
    marker: {
      color: own, symbol: status.symbol, size: size ? rows.map(size) : status.size * (view.rows.length > SVG_UP_TO ? 0.6 : 1),
      opacity: status.key === "dominated" ? 0.75 : 0.95, ...(colour && colour.metric ? { coloraxis: "coloraxis" } : {}),
      line: open ? { width: 1.3 } : { width: view.rows.length > SVG_UP_TO ? 0.4 : 1, color: "#FFFFFF" },
    },
  };
}

// Ticks of a log axis as plain numbers: 1, 2 and 5 in each decade, or even steps within a short range.
function logTicks(values, rows) {
  const [least, most] = rangeOf(values, rows);
  if (!(least > 0) || !(most > least)) return {};
  const ticks = [];
  const labelled = most / least > 1e5 ? [1] : [1, 2, 5];
  if (most / least < 4) {
    const rough = (most - least) / 5;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((times) => times * power >= rough);
    for (let at = Math.floor(least / step); at <= Math.ceil(most / step); at++) if (at > 0) ticks.push(at * step);
    return { tickvals: ticks, ticktext: ticks.map(digits) };
  }
  const text = [];
  for (let decade = Math.floor(Math.log10(least)); decade <= Math.ceil(Math.log10(most)); decade++)
    for (let times = 1; times < 10; times++) {
      ticks.push(times * 10 ** decade);
      text.push(labelled.includes(times) ? digits(times * 10 ** decade) : "");
    }
  return { tickvals: ticks, ticktext: text };
}

function axisLayout(name, log, values, rows) {
  return {
    title: { text: plain(labelOf(name)), standoff: 12 }, type: log ? "log" : "linear", autorange: true, automargin: true,
    gridcolor: "#E4E4E4", zerolinecolor: "#C0C0C0", linecolor: "#444444", ticks: "outside",
    ...(log ? logTicks(values, rows) : {}),
  };
}

// Draws what the state says; the ring is around the chosen configuration.
function drawPlot() {
  const [x, y] = [axisValues(state.x), axisValues(state.y)];
  const size = state.size === "none" ? null : axisValues(state.size);
  const missing = [[state.x, x], [state.y, y]].filter(([, axis]) => axis === null).map(([name]) => labelOf(name));
  if (missing.length) {
    Plotly.react("plot", [], { annotations: [noted(`No figure of ${missing.join(" or ")} here.`)], xaxis: { visible: false }, yaxis: { visible: false } }, CONFIG);
    byId("note").textContent = "";
    byId("colour-legend").replaceChildren();
    return;
  }
  const axes = [[labelOf(state.x), x, state.xlog], [labelOf(state.y), y, state.ylog]];
  if (size) axes.push([labelOf(state.size), size, false]);
  const shown = view.rows.filter((i) => !state.hide.includes(STATUS[view.status.get(i)].key));
  const [rows, lost] = drawn(axes, shown);
  const colour = colouring(rows);
  const sizeOf = sizing(size, rows);
  const bars = state.ci && rows.length <= BARS_UP_TO;
  const traces = ["dominated", "unusable", "incomplete", "tie", "without", "both", "only"]
    .map((key) => [AT[key], rows.filter((i) => view.status.get(i) === AT[key])])
    .filter(([, own]) => own.length)
    .map(([code, own]) => traceOf(code, own, x, y, colour, sizeOf, bars));
  const at = rows.filter((i) => i === chosenRow());
  traces.push({
    type: "scatter", mode: "markers", name: "chosen", hoverinfo: "skip", showlegend: false,
    x: at.map((i) => x.values[i]), y: at.map((i) => y.values[i]),
    marker: { symbol: "circle-open", size: 24, color: "#000000", line: { width: 2.5 } },
  });
  const layout = {
    font: { family: "system-ui, sans-serif", size: 13, color: "#1A1A1A" }, margin: { l: 70, r: 20, t: 12, b: 55 },
    xaxis: axisLayout(state.x, state.xlog, x.values, rows), yaxis: axisLayout(state.y, state.ylog, y.values, rows), hovermode: "closest",
    paper_bgcolor: "#FFFFFF", plot_bgcolor: "#FFFFFF",
    uirevision: JSON.stringify([state.cell, state.energy, state.x, state.y, state.xlog, state.ylog]),
    annotations: rows.length ? [] : [noted("Nothing to draw: no configuration passes the filters with these figures.")],
  };
  if (colour && colour.metric) {
    const [least, most] = rangeOf(colour.metric.values, rows);
    layout.coloraxis = { colorscale: "Viridis", cmin: least, cmax: most, colorbar: { title: { text: plain(colour.label), side: "right" }, thickness: 14 } };
  }
  Plotly.react("plot", traces, layout, CONFIG);
  sayNote(lost, bars, size, rows);
  drawColourLegend(colour);
}

// The buttons are named one by one: the library has others that would send the chart to its maker's server.
const CONFIG = {
  responsive: true, displaylogo: false, plotlyServerURL: "", modeBarButtons: [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]], 
  toImageButtonOptions: { format: "svg", filename: "explorer" },
};
const noted = (text) => ({ text: plain(text), xref: "paper", yref: "paper", x: 0.5, y: 0.5, showarrow: false, font: { size: 15 } });

function sayNote(lost, bars, size, rows) {
  const parts = Object.entries(lost).map(([why, count]) => `${count} not drawn: ${why}.`);
  if (state.ci && !bars) parts.push(`Intervals are drawn for up to ${BARS_UP_TO} points; filter to see them.`);
  if (size && rows.length) {
    const [least, most] = rangeOf(size.values, rows);
    parts.push(`Size: ${labelOf(state.size)}, ${digits(least)} (smallest) to ${digits(most)} (largest).`);
  }
  byId("note").textContent = parts.join(" ");
}

function drawColourLegend(colour) {
  const box = byId("colour-legend");
  box.replaceChildren();
  if (!colour) return;
  if (colour.legend.length) box.append(element("span", { class: "name" }, `colour: ${colour.label}`));
  for (const [shade, text] of colour.legend) {
    const swatch = element("span", { class: "swatch" });
    swatch.style.background = shade;
    box.append(element("span", {}, swatch, text));
  }
}

function tipLines(i) {
  const lines = view.knobs.map((knob) => [knob.name, textAt(knob, i) ?? NONE]);
  for (const name of new Set(["pas", "latency_p99_s", "usd_per_1000_requests", "energy", state.x, state.y, state.size, state.colour])) {
    const metric = data.metrics.get(columnOf(name));
    if (metric) lines.push([labelFor(metric, i), digits(metric.values[i])]);
  }
  return [...new Map(lines)];
}

// A metric's label for one configuration, whose own evidence counts.
const labelFor = (metric, i) => (metric.energy ? modelled(textAt(data.evidence, i)) + metric.label : metric.label);

function showTip(event) {
  const i = event.points[0].customdata;
  if (i === undefined) return;
  const tip = byId("tip");
  tip.replaceChildren(
    element("strong", {}, data.configuration[i]),
    element("span", { class: "status" }, STATUS[view.status.get(i)].text),
    ...tipLines(i).map(([name, value]) => element("span", { class: "line" }, element("span", {}, name), element("b", {}, value))),
  );
  tip.hidden = false;
  const [width, height] = [tip.offsetWidth, tip.offsetHeight];
  const { clientX, clientY } = event.event;
  tip.style.left = `${Math.max(4, clientX + 16 + width > innerWidth ? clientX - width - 16 : clientX + 16)}px`;
  tip.style.top = `${Math.max(4, Math.min(clientY + 12, innerHeight - height - 4))}px`;
}

function listenToPlot(choose) {
  const plot = byId("plot");
  plot.on("plotly_hover", showTip);
  plot.on("plotly_unhover", () => { byId("tip").hidden = true; });
  plot.on("plotly_click", (event) => {
    const i = event.points[0].customdata;
    if (i !== undefined) choose(i);
  });
}
