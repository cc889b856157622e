// The side panel: one configuration, its figures with intervals, its place on the fronts, its measurements.

function chosenRow() {
  if (state.at === null) return null;
  const found = view.inCell.find((i) => data.configuration[i] === state.at);
  return found === undefined ? null : found;
}

function drawPanel(close) {
  const panel = byId("panel");
  const i = chosenRow();
  panel.hidden = i === null;
  byId("app").classList.toggle("with-panel", i !== null);
  if (i === null) return fill(panel);
  const inView = view.status.has(i);
  return fill(
    panel,
    element("button", { type: "button", class: "close", "aria-label": "Close the panel", onclick: close }, "\u00D7"),
    element("h2", { tabindex: "-1" }, data.configuration[i]),
    element("p", { class: "status" }, inView ? statusText(i) : "Left out by the filters."),
    warned(i),
    element("h3", {}, "Knobs"), knobList(i),
    element("h3", {}, `Figures (${counted(i)})`), figureTable(i),
    ...memberPart(i),
    element("h3", {}, "Measurements"), measurementTable(i),
  );
}

function statusText(i) {
  const word = modelled(view.evidence);
  return STATUS[view.status.get(i)].text.replace("energy", `${word}${state.energy} energy`).replace(/^./, (c) => c.toUpperCase()) + ", among the filtered rows.";
}

function warned(i) {
  const word = modelled(textAt(data.evidence, i));
  const random = data.cells[state.cell][CELL.indexOf("weights")] === "random";
  const parts = [];
  if (word) parts.push(`The energy of this configuration is ${word.trim()}.`);
  if (random) parts.push("Random weights ran; the accuracy is that published for the trained models.");
  return parts.length ? element("p", { class: "hint" }, parts.join(" ")) : null;
}

function counted(i) {
  const of = (name) => (data.counts[name] ? data.counts[name][i] : 0);
  const parts = [`means of ${of("n")} of ${of("n_recorded")} measurements`];
  for (const [name, word] of [["n_failed", "failed"], ["n_not_run", "not run"], ["n_dropped", "left out for a flag"], ["n_other_settings", "measured otherwise"]])
    if (of(name) > 0) parts.push(`${of(name)} ${word}`);
  return parts.join(", ");
}

function knobList(i) {
  const list = element("dl");
  for (const knob of data.knobs) if (knob.codes[i] >= 0) list.append(element("dt", {}, knob.name), element("dd", {}, textAt(knob, i)));
  return list;
}

function figureTable(i) {
  const first = ["pas", "latency_p99_s", "usd_per_1000_requests", "gross_j_per_request", "net_j_per_request", "throughput_rps"];
  const names = [...first, ...[...data.metrics.keys()].filter((name) => !first.includes(name))].filter((name) => data.metrics.has(name));
  const table = (chosen) =>
    plainTable(["", "mean", raw.confidence ? `${Number((100 * raw.confidence).toPrecision(4))} % interval` : "interval"], chosen.map((name) => {
      const metric = data.metrics.get(name);
      return [labelFor(metric, i), digits(metric.values[i]), metric.lo && metric.hi ? interval(metric.lo[i], metric.hi[i]) : NONE];
    }));
  const rest = names.filter((name) => !first.includes(name) && Number.isFinite(data.metrics.get(name).values[i]));
  return element("div", {}, table(names.filter((name) => first.includes(name))), element("details", {}, element("summary", {}, "All other figures"), table(rest)));
}

const more = (share) => (share > 0 ? "+" : "") + percent(share);

function memberPart(i) {
  const members = data.membership && data.membership[state.energy];
  if (!members) return [];
  const known = (name) => members[name] && Number.isFinite(members[name][i]);
  const word = modelled(textAt(data.evidence, i));
  const energy = `${word}${state.energy} energy`;
  const rows = [];
  for (const [name, text] of [["p_front_without", "optimal without energy"], ["p_front_with", `optimal with ${energy}`], ["p_only_with", `optimal only because of ${energy}`]])
    if (known(name)) rows.push([`probability: ${text}`, percent(members[name][i])]);
  const decided = textAt(members.only_with, i);
  if (decided) rows.push([`tested: optimal only because of ${energy}`, decided]);
  if (known("gain")) {
    const bounds = known("gain_lo") && known("gain_hi") ? ` (${more(members.gain_lo[i])} to ${more(members.gain_hi[i])})` : "";
    rows.push([`${energy} of the most frugal other that is as good in all else, relative to this one`, more(members.gain[i]) + bounds]);
  }
  const reason = textAt(members.reason, i);
  if (!rows.length && !reason) return [];
  return [
    element("h3", {}, "Under replicate noise, among all configurations of the cell"),
    rows.length ? plainTable(["", ""], rows) : null,
    reason ? element("p", { class: "hint" }, reason) : null,
  ];
}

function measurementTable(i) {
  const { starts, texts, figures, start } = data.measurements;
  const columns = [["repetition", (m) => recordLink(m, textAt(texts.repetition, m) ?? NONE)]];
  const word = (m) => modelled(textAt(texts.evidence, m)).trim();
  columns.push(["state", (m) => [textAt(texts.state, m), textAt(texts.reason, m)].filter(Boolean).join(": ")]);
  columns.push(["flags", (m) => (textAt(texts.flags, m) ?? NONE).replace(/;/g, ", ")]);
  const labels = { gross_j_per_request: "gross energy (J / request)", net_j_per_request: "net energy (J / request)", mean_w: "mean power (W)", latency_p99_s: "p99 latency (s)", latency_mean_s: "mean latency (s)", throughput_rps: "throughput (requests / s)", window_s: "window (s)", foreign_cores: "cores used by others" };
  for (const [name, label] of Object.entries(labels)) {
    if (!figures[name]) continue;
    const energy = name.endsWith("_w") || name.endsWith("_j_per_request");
    const value = (m) => (energy && word(m) && Number.isFinite(figures[name][m]) ? `${digits(figures[name][m])} ${word(m)}` : digits(figures[name][m]));
    columns.push([label, value]);
  }
  columns.push(["begin (UTC)", (m) => (Number.isFinite(start[m]) ? new Date(1000 * start[m]).toISOString().slice(0, 19).replace("T", " ") : NONE)]);
  if (texts.experiment && texts.experiment.levels.length > 1) columns.push(["experiment", (m) => textAt(texts.experiment, m)]);
  const rows = [];
  for (let m = starts[i]; m < starts[i + 1]; m++) rows.push(columns.map(([, of]) => of(m)));
  if (!rows.length) return element("p", { class: "hint" }, "No measurement of this configuration is in the table.");
  return element("div", { class: "wide" }, plainTable(columns.map(([label]) => label), rows));
}

// The name of a repetition, as a link to its record where that lies below this page's folder, else with its path.
function recordLink(m, name) {
  const { path } = data.measurements;
  if (!path || path.before.codes[m] < 0) return name;
  const id = path.id[m] ? data.configuration[chosenRow()] : "";
  const whole = path.before.levels[path.before.codes[m]] + id + path.after.levels[path.after.codes[m]];
  if (!path.link[m]) return element("span", {}, name, element("code", { class: "path" }, whole));
  const href = `./${whole.split("/").map(encodeURIComponent).join("/")}`;
  return element("a", { href, target: "_blank", rel: "noopener", title: whole }, name);
}

function plainTable(head, rows) {
  const row = (cells, tag) => element("tr", {}, ...cells.map((cell, k) => element(k === 0 && tag === "td" ? "th" : tag, tag === "th" ? { scope: "col" } : k === 0 ? { scope: "row" } : {}, cell)));
  return element("table", {}, element("thead", {}, row(head, "th")), element("tbody", {}, ...rows.map((cells) => row(cells, "td"))));
}
