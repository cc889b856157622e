// The data of the page, unpacked (packing.py has the format), and figures and names as text.

const raw = JSON.parse(document.getElementById("data").textContent);
const ARRAYS = { f8: Float64Array, f4: Float32Array, i4: Int32Array };

function unpack(packed) {
  if (packed === null || packed === undefined) return null;
  if ("same" in packed) return new Float64Array(packed.n).fill(packed.same);
  const text = atob(packed.b64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new ARRAYS[packed.type](bytes.buffer);
}

function unpackTexts(packed) {
  return { levels: packed.levels, codes: unpack(packed.codes) };
}

const textAt = (texts, i) => (texts && texts.codes[i] >= 0 ? texts.levels[texts.codes[i]] : null);

const mapped = (object, f) => Object.fromEntries(Object.entries(object).map(([key, value]) => [key, f(value)]));

const CELL = ["pipeline", "workload", "host", "weights", "meters"];
const NONE = "\u2013";

const data = {
  n: raw.configuration.length,
  configuration: raw.configuration,
  cells: raw.cells,
  cell: unpack(raw.cell),
  evidence: unpackTexts(raw.evidence),
  knobs: raw.knobs.map((knob) => ({ name: knob.name, numeric: knob.numeric, ...unpackTexts(knob) })),
  counts: mapped(raw.counts, unpack),
  metrics: new Map(
    raw.metrics.map((m) => [m.name, { ...m, values: unpack(m.values), lo: unpack(m.lo), hi: unpack(m.hi) }]),
  ),
  membership: raw.membership && mapped(raw.membership, (columns) =>
    mapped(columns, (column) => ("levels" in column ? unpackTexts(column) : unpack(column)))),
  measurements: {
    starts: unpack(raw.measurements.starts),
    texts: mapped(raw.measurements.texts, unpackTexts),
    figures: mapped(raw.measurements.figures, unpack),
    start: unpack(raw.measurements.start),
    path: raw.measurements.path && {
      before: unpackTexts(raw.measurements.path.before),
      after: unpackTexts(raw.measurements.path.after),
      id: unpack(raw.measurements.path.id),
      link: unpack(raw.measurements.path.link),
    },
  },
};

const ENERGIES = { net: "net_j_per_request", gross: "gross_j_per_request" };
const OBJECTIVES = { accuracy: "pas", latency: "latency_p99_s", cost: "usd_per_1000_requests" };
const valuesOf = (name) => (data.metrics.has(name) ? data.metrics.get(name).values : null);

// A knob as numbers, NaN where a configuration does not have it.
function knobNumbers(knob) {
  const numbers = knob.levels.map(Number);
  return Float64Array.from(knob.codes, (code) => (code < 0 ? NaN : numbers[code]));
}

function digits(value) {
  if (value === null || !Number.isFinite(value)) return NONE;
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return value.toExponential(3).replace(/\.?0+e/, "e");
  return String(Number(value.toPrecision(4)));
}

const percent = (p) => (Number.isFinite(p) ? `${Number((100 * p).toPrecision(3))} %` : NONE);

function interval(lo, hi) {
  return Number.isFinite(lo) && Number.isFinite(hi) ? `${digits(lo)} to ${digits(hi)}` : NONE;
}

// The word that must stand before an energy that is not all measured.
const WORDS = { estimated: "estimated ", mixed: "partly estimated " };
const modelled = (evidence) => WORDS[evidence] || "";

function evidenceOf(rows) {
  const kinds = new Set();
  for (const i of rows) {
    const kind = textAt(data.evidence, i);
    if (kind !== null && kind !== "none") kinds.add(kind);
  }
  return kinds.size > 1 ? "mixed" : kinds.size ? [...kinds][0] : null;
}

// plotly takes labels for a kind of HTML.
const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (typeof value === "boolean" || name === "value") node[name] = value;
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  return fill(node, ...children);
}

// Puts children in place of those that a node has; null is none.
function fill(node, ...children) {
  node.replaceChildren(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const byId = (id) => document.getElementById(id);
