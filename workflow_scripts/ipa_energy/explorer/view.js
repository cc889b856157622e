// What is looked at: the state, the rows that pass the filters, their fronts, and the address that holds the state.

const STATUS = [
  { key: "both", text: "optimal with and without energy", colour: "#0072B2", symbol: "circle", size: 10 },
  { key: "only", text: "optimal only because of energy", colour: "#D55E00", symbol: "diamond", size: 12 },
  { key: "tie", text: "optimal only without energy (another is equal in all else and takes less)", colour: "#E69F00", symbol: "square", size: 10 },
  { key: "without", text: "optimal in accuracy, latency and cost (energy not known)", colour: "#009E73", symbol: "triangle-up", size: 11 },
  { key: "dominated", text: "dominated", colour: "#7F7F7F", symbol: "circle-open", size: 7 },
  { key: "incomplete", text: "energy not known, in no front", colour: "#CC79A7", symbol: "x", size: 8 },
  { key: "unusable", text: "lacks accuracy, latency or cost, in no front", colour: "#000000", symbol: "cross-thin-open", size: 8 },
];
const AT = Object.fromEntries(STATUS.map((status, i) => [status.key, i]));

function freshState() {
  return {
    cell: 0, energy: "net", x: "latency_p99_s", y: "energy", colour: "status", size: "none", xlog: true, ylog: true,
    ci: false, sla: null, rate: null, not: {}, hide: [], view: "plot", sort: "", desc: false, page: 0, at: null,
  };
}

let state = freshState();

function rowsOfCell(cell) {
  const rows = [];
  for (let i = 0; i < data.n; i++) if (data.cell[i] === cell) rows.push(i);
  return rows;
}

const anyOf = (values, rows) => values !== null && rows.some((i) => Number.isFinite(values[i]));
const energyColumn = () => ENERGIES[state.energy];
const columnOf = (name) => (name === "energy" ? energyColumn() : name);

function varyingKnobs(rows) {
  return data.knobs.filter((knob) => {
    const seen = new Set();
    for (const i of rows) if (knob.codes[i] >= 0) seen.add(knob.codes[i]);
    return seen.size > 1;
  });
}

// Rows of the cell that pass every filter. A latency or throughput that isn't known meets no bound.
function filteredRows(rows) {
  const left = data.knobs
    .filter((knob) => state.not[knob.name] && state.not[knob.name].length)
    .map((knob) => ({ knob, out: new Set(state.not[knob.name].map((level) => knob.levels.indexOf(level))) }));
  const [latency, throughput] = [valuesOf("latency_p99_s"), valuesOf("throughput_rps")];
  return rows.filter(
    (i) =>
      left.every(({ knob, out }) => knob.codes[i] < 0 || !out.has(knob.codes[i])) &&
      (state.sla === null || (latency !== null && latency[i] <= state.sla)) &&
      (state.rate === null || (throughput !== null && throughput[i] >= state.rate)),
  );
}

// Fronts without and with energy of the same rows: those with all four figures; where no row has energy, three.
function frontsOf(rows) {
  const three = [OBJECTIVES.accuracy, OBJECTIVES.latency, OBJECTIVES.cost].map(valuesOf);
  const energy = valuesOf(energyColumn());
  const known = three.includes(null) ? [] : rows.filter((i) => three.every((values) => Number.isFinite(values[i])));
  const complete = energy === null ? [] : known.filter((i) => Number.isFinite(energy[i]));
  const withEnergy = complete.length > 0;
  const compared = withEnergy ? complete : known;
  const column = (values, sign) => Float64Array.from(compared, (i) => sign * values[i]);
  const columns = known.length ? [column(three[0], -1), column(three[1], 1), column(three[2], 1)] : [];
  const without = paretoMask(columns, compared.length);
  const also = withEnergy ? paretoMask([...columns, column(energy, 1)], compared.length) : null;
  const status = new Map(rows.map((i) => [i, AT.unusable]));
  for (const i of known) status.set(i, AT.incomplete);
  compared.forEach((i, at) => {
    const alone = without[at] === 1;
    if (also === null) status.set(i, alone ? AT.without : AT.dominated);
    else status.set(i, also[at] ? (alone ? AT.both : AT.only) : alone ? AT.tie : AT.dominated);
  });
  const count = new Array(STATUS.length).fill(0);
  for (const code of status.values()) count[code]++;
  return { status, count, compared: compared.length, withEnergy };
}

let view = null;

function look() {
  const inCell = rowsOfCell(state.cell);
  const rows = filteredRows(inCell);
  const evidence = evidenceOf(inCell);
  view = { inCell, rows, evidence, ...frontsOf(rows), knobs: varyingKnobs(inCell) };
  return view;
}

// Counts in words.
function summaryText() {
  const { count, compared, withEnergy, rows, inCell } = view;
  const energy = `${modelled(view.evidence)}${state.energy} energy`;
  if (!rows.length) return `None of the ${inCell.length} configurations passes the filters.`;
  const of = `${compared} configuration${compared === 1 ? "" : "s"}`;
  const parts = [];
  if (withEnergy) {
    parts.push(
      `${count[AT.both] + count[AT.tie]} of ${of} optimal without energy, ` +
        `${count[AT.both] + count[AT.only]} with ${energy}, ${count[AT.only]} only because of ${energy}.`,
    );
    if (count[AT.tie]) parts.push(`${count[AT.tie]} no longer optimal with it: another is equal in all else and takes less.`);
  } else if (compared) {
    parts.push(`${count[AT.without]} of ${of} optimal without energy. No ${state.energy} energy is known here.`);
  } else parts.push("No configuration here has accuracy, latency and cost, so there is no front.");
  if (count[AT.incomplete]) parts.push(`${count[AT.incomplete]} without ${state.energy} energy are listed, but in no front.`);
  if (compared && count[AT.unusable]) parts.push(`${count[AT.unusable]} lack accuracy, latency or cost.`);
  if (rows.length < inCell.length) parts.push(`Filters leave ${rows.length} of ${inCell.length}.`);
  return parts.join(" ");
}

// The label of a metric in the light of what stands behind its energy.
function labelOf(name) {
  const column = columnOf(name);
  const metric = data.metrics.get(column);
  if (!metric) return raw.labels[column] || column;
  return metric.energy ? modelled(view.evidence) + metric.label : metric.label;
}

const FLAGS = ["xlog", "ylog", "ci", "desc"];

function writeAddress() {
  const params = new URLSearchParams();
  const fresh = freshState();
  CELL.forEach((part, k) => params.set(part, data.cells[state.cell][k]));
  for (const key of ["energy", "x", "y", "colour", "size", "view"]) params.set(key, state[key]);
  for (const key of FLAGS) params.set(key, state[key] ? "1" : "0");
  for (const key of ["sla", "rate", "at", "sort"]) if (state[key] !== fresh[key]) params.set(key, state[key]);
  for (const [knob, levels] of Object.entries(state.not)) if (levels.length) params.set(`not.${knob}`, JSON.stringify(levels));
  if (state.hide.length) params.set("hide", state.hide.join(","));
  try {
    history.replaceState(null, "", `#${params}`);
  } catch {
    // A page inside another document has no address of its own.
  }
}

const positive = (text) => {
  const value = text === null || text.trim() === "" ? NaN : Number(text);
  return Number.isFinite(value) && value >= 0 ? value : null;
};

// The state that an address holds; what it does not know, or knows wrongly, is as in a fresh one.
function readAddress(fragment) {
  const params = new URLSearchParams(fragment.replace(/^#/, ""));
  const read = freshState();
  const parts = CELL.map((part) => params.get(part));
  read.cell = parts.some((part) => part !== null) ? nearestCell(parts, 0) : firstCell();
  read.energy = params.get("energy") in ENERGIES ? params.get("energy") : defaultEnergy(read.cell);
  for (const key of ["x", "y", "colour", "size"]) if (params.has(key)) read[key] = params.get(key);
  if (params.get("view") === "table") read.view = "table";
  for (const key of FLAGS) if (params.has(key)) read[key] = params.get(key) === "1";
  read.sla = positive(params.get("sla"));
  read.rate = positive(params.get("rate"));
  read.at = params.get("at");
  read.sort = params.get("sort") || "";
  read.hide = (params.get("hide") || "").split(",").filter((key) => key in AT);
  for (const knob of data.knobs) {
    try {
      const levels = JSON.parse(params.get(`not.${knob.name}`));
      if (Array.isArray(levels)) read.not[knob.name] = levels.filter((level) => knob.levels.includes(level));
    } catch {
      // not a list: as if it were not there
    }
  }
  return read;
}

// The cell that agrees in most parts, part `first` above all.
function nearestCell(parts, first) {
  let [best, most] = [0, -1];
  data.cells.forEach((cell, i) => {
    const same = cell.reduce((sum, part, k) => sum + (part === parts[k] ? (k === first ? 10 : 1) : 0), 0);
    if (same > most) [best, most] = [i, same];
  });
  return best;
}

// The cell to begin with: measured energy rather than estimated, then the most configurations.
function firstCell() {
  const rank = { measured: 3, mixed: 2, estimated: 1 };
  const score = data.cells.map((_, cell) => {
    const rows = rowsOfCell(cell);
    return (rank[evidenceOf(rows)] || 0) * (data.n + 1) + rows.length;
  });
  return score.length ? score.indexOf(Math.max(...score)) : 0;
}

function defaultEnergy(cell) {
  const rows = rowsOfCell(cell);
  return anyOf(valuesOf(ENERGIES.net), rows) || !anyOf(valuesOf(ENERGIES.gross), rows) ? "net" : "gross";
}
