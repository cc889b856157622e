// The filtered rows as a table that can be sorted, and as CSV.

const PAGE_ROWS = 100;

function tableColumns() {
  const evidence = modelled(view.evidence);
  const columns = [
    { name: "configuration", label: "configuration", text: (i) => data.configuration[i] },
    { name: "status", label: evidence ? `front (with ${evidence}energy)` : "front", text: (i) => SHORT[STATUS[view.status.get(i)].key], rank: (i) => view.status.get(i) },
  ];
  const metrics = ["pas", "latency_p99_s", "usd_per_1000_requests", "energy", "throughput_rps", state.x, state.y, state.size, state.colour];
  for (const name of new Set(metrics.map(columnOf))) {
    const metric = data.metrics.get(name);
    if (metric) columns.push({ name, label: labelOf(name), number: true, text: (i) => digits(metric.values[i]), rank: (i) => metric.values[i] });
  }
  const members = data.membership && data.membership[state.energy];
  if (members)
    columns.push({ name: "p_only_with", label: `probability: optimal only because of ${evidence}energy`, number: true, text: (i) => percent(members.p_only_with[i]), rank: (i) => members.p_only_with[i] });
  for (const knob of view.knobs)
    columns.push({ name: knob.name, label: knob.name, text: (i) => textAt(knob, i) ?? NONE, rank: (i) => (knob.codes[i] < 0 ? NaN : knob.codes[i]) });
  return columns;
}

const SHORT = {
  both: "with and without", only: "only with", tie: "only without", without: "without (energy not known)",
  dominated: "dominated", incomplete: "energy not known", unusable: "lacks figures",
};

// Rows in the order of the chosen column; what isn't known comes last in both directions.
function sortedRows(columns) {
  const by = columns.find((column) => column.name === state.sort);
  const rows = view.rows.slice();
  if (!by) return rows.sort((i, j) => view.status.get(i) - view.status.get(j) || i - j);
  const sign = state.desc ? -1 : 1;
  if (!by.rank) return rows.sort((i, j) => sign * by.text(i).localeCompare(by.text(j)));
  return rows.sort((i, j) => {
    const [a, b] = [by.rank(i), by.rank(j)];
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return sign * (a - b) || i - j;
  });
}

function drawTable(choose, change) {
  const columns = tableColumns();
  const rows = sortedRows(columns);
  const pages = Math.max(1, Math.ceil(rows.length / PAGE_ROWS));
  state.page = Math.min(state.page, pages - 1);
  const from = state.page * PAGE_ROWS;
  const head = columns.map((column) => {
    const sorted = column.name === state.sort;
    const turn = () => change({ sort: column.name, desc: sorted ? !state.desc : false, page: 0 });
    return element(
      "th", { scope: "col", class: column.number ? "number" : null, "aria-sort": sorted ? (state.desc ? "descending" : "ascending") : "none" },
      element("button", { type: "button", onclick: turn }, column.label, element("span", { "aria-hidden": "true" }, sorted ? (state.desc ? " \u25BC" : " \u25B2") : "")),
    );
  });
  const body = rows.slice(from, from + PAGE_ROWS).map((i) => {
    const cells = columns.slice(1).map((column) => element("td", { class: column.number ? "number" : null }, column.text(i)));
    const name = element("button", { type: "button", class: "link", onclick: () => choose(i) }, data.configuration[i]);
    return element("tr", { class: i === chosenRow() ? "chosen" : null }, element("th", { scope: "row" }, name), ...cells);
  });
  byId("table").replaceChildren(element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body)));
  const turnTo = (page) => () => change({ page });
  fill(
    byId("pager"),
    element("span", {}, rows.length ? `Rows ${from + 1} to ${Math.min(from + PAGE_ROWS, rows.length)} of ${rows.length}` : "No row passes the filters"),
    pages > 1 ? element("button", { type: "button", onclick: turnTo(state.page - 1), disabled: state.page === 0 }, "Previous") : null,
    pages > 1 ? element("button", { type: "button", onclick: turnTo(state.page + 1), disabled: state.page === pages - 1 }, "Next") : null,
  );
}

// The filtered rows with all knobs, figures, intervals and fronts; the text of the file.
function csvText() {
  const cell = data.cells[state.cell];
  const columns = [["configuration", (i) => data.configuration[i]]];
  CELL.forEach((part, k) => columns.push([part, () => cell[k]]));
  for (const knob of data.knobs) columns.push([knob.name, (i) => textAt(knob, i)]);
  for (const [name, values] of Object.entries(data.counts)) columns.push([name, (i) => exact(values, i)]);
  columns.push(["evidence", (i) => textAt(data.evidence, i)]);
  for (const metric of data.metrics.values()) {
    columns.push([metric.name, (i) => exact(metric.values, i)]);
    if (metric.lo && metric.hi) {
      columns.push([`${metric.name}_lo`, (i) => exact(metric.lo, i)], [`${metric.name}_hi`, (i) => exact(metric.hi, i)]);
    }
  }
  const on = (...keys) => (i) => keys.includes(STATUS[view.status.get(i)].key) ? "1" : "0";
  const inFront = (i) => !["incomplete", "unusable"].includes(STATUS[view.status.get(i)].key);
  const without = on("both", "tie", "without");
  const also = on("both", "only");
  columns.push(["energy", () => state.energy]);
  columns.push(["front_without", (i) => (inFront(i) ? without(i) : null)]);
  columns.push(["front_with", (i) => (inFront(i) && view.withEnergy ? also(i) : null)]);
  const members = data.membership && data.membership[state.energy];
  for (const [name, values] of Object.entries(members || {}))
    columns.push([name === "reason" ? "membership_reason" : name, (i) => ("levels" in values ? textAt(values, i) : exact(values, i))]);
  const lines = [columns.map(([name]) => quoted(name))];
  for (const i of sortedRows(tableColumns())) lines.push(columns.map(([, of]) => quoted(of(i))));
  return lines.map((line) => `${line.join(",")}\n`).join("");
}

function exact(values, i) {
  const value = values[i];
  if (!Number.isFinite(value)) return null;
  return String(values instanceof Float32Array ? Number(value.toPrecision(7)) : value);
}

const quoted = (value) => (value === null ? "" : /[",\r\n]/.test(value) ? `"${value.replace(/"/g, '""')}"` : value);

function download() {
  const url = URL.createObjectURL(new Blob([csvText()], { type: "text/csv;charset=utf-8" }));
  const link = element("a", { href: url, download: "explorer.csv" });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
