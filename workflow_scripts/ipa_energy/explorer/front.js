// Pareto fronts of many points: divide and conquer after Kung, Luccio and Preparata (1975), n log^(d-2) n comparisons.
// Everything is to be small. Points are columns of numbers without NaN; equal points are all on the front or none is.

const PAIRS = 1 << 12; // pairs compared one by one below this, which is quicker than dividing further

// Which of n points, columns[k][i], no other beats: Uint8Array of 0 and 1.
function paretoMask(columns, n) {
  const mask = new Uint8Array(n);
  const order = Uint32Array.from({ length: n }, (_, i) => i).sort((a, b) => {
    for (const column of columns) if (column[a] !== column[b]) return column[a] - column[b];
    return 0;
  });
  const distinct = [];
  const groups = [];
  for (const i of order) {
    const last = distinct[distinct.length - 1];
    if (distinct.length && columns.every((column) => column[i] === column[last])) groups[groups.length - 1].push(i);
    else {
      distinct.push(i);
      groups.push([i]);
    }
  }
  const place = new Map(distinct.map((i, at) => [i, at]));
  for (const i of frontOf(columns, distinct)) for (const same of groups[place.get(i)]) mask[same] = 1;
  return mask;
}

// Front of distinct rows in lexicographic order: only an earlier one can beat a later one.
function frontOf(columns, rows) {
  if (rows.length * rows.length <= PAIRS) {
    const kept = [];
    for (const j of rows) if (!kept.some((i) => noWorse(columns, i, j, 1))) kept.push(j);
    return kept;
  }
  const half = rows.length >> 1;
  const first = frontOf(columns, rows.slice(0, half));
  const later = rows.slice(half);
  const covered = new Set();
  markCovered(columns, first, later, 1, covered);
  return first.concat(frontOf(columns, later.filter((j) => !covered.has(j))));
}

function noWorse(columns, i, j, from) {
  for (let k = from; k < columns.length; k++) if (columns[k][i] > columns[k][j]) return false;
  return true;
}

// Adds to `covered` the rows of b that some row of a equals or beats in the columns from `from` on.
function markCovered(columns, a, b, from, covered) {
  if (!a.length || !b.length) return;
  const left = columns.length - from;
  if (left === 0) {
    for (const j of b) covered.add(j);
  } else if (left === 1) {
    let least = Infinity;
    for (const i of a) least = Math.min(least, columns[from][i]);
    for (const j of b) if (columns[from][j] >= least) covered.add(j);
  } else if (a.length * b.length <= PAIRS) {
    for (const j of b) if (a.some((i) => noWorse(columns, i, j, from))) covered.add(j);
  } else if (left === 2) {
    sweep(columns[from], columns[from + 1], a, b, covered);
  } else {
    divide(columns, a, b, from, covered);
  }
}

// Two columns: along the first, the least of the second so far.
function sweep(x, y, a, b, covered) {
  const before = a.slice().sort((i, j) => x[i] - x[j]);
  let at = 0;
  let least = Infinity;
  for (const j of b.slice().sort((i, k) => x[i] - x[k])) {
    for (; at < before.length && x[before[at]] <= x[j]; at++) least = Math.min(least, y[before[at]]);
    if (least <= y[j]) covered.add(j);
  }
}

function divide(columns, a, b, from, covered) {
  const x = columns[from];
  const all = a.concat(b).map((i) => x[i]).sort((p, q) => p - q);
  const largest = all[all.length - 1];
  let middle = all[(all.length - 1) >> 1];
  // Where half of all equal the largest, that value by itself and those below it: both parts must get smaller.
  if (middle === largest) middle = all[lowerBound(all, largest) - 1] ?? -Infinity;
  const part = (rows, low) => rows.filter((i) => x[i] <= middle === low);
  const [aLow, bLow, bHigh] = [part(a, true), part(b, true), part(b, false)];
  markCovered(columns, aLow, bLow, from, covered);
  markCovered(columns, aLow, bHigh, from + 1, covered);
  const aHigh = part(a, false);
  const open = bHigh.filter((j) => !covered.has(j));
  const one = middle === -Infinity || all[lowerBound(all, largest) - 1] === middle;
  markCovered(columns, aHigh, open, one ? from + 1 : from, covered);
}

function lowerBound(sorted, value) {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}
