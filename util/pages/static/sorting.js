// The order of a gallery's rows: that of the files, by name, or by a metric.

const METRIC = "metric:"; // in the values of the sort field, before the metric's name

function metricOf({ sort }) {
  return sort.startsWith(METRIC) ? sort.slice(METRIC.length) : null;
}

function sortRows(rows, state) {
  const sign = state.reversed ? -1 : 1;
  const metric = metricOf(state);
  if (metric !== null) {
    // The worst values come first; the lowest, if it is unknown which are worse.
    const upwards = FACTS.higherIsBetter[metric] === false ? -sign : sign;
    return rows.toSorted((row, other) => compareValues(row, other, metric, upwards));
  }
  const { compare } = new Intl.Collator("en", { numeric: true });
  const bySort = state.sort === "name" ? (row, other) => compare(row.name, other.name) : () => 0;
  return rows.toSorted((row, other) => sign * (bySort(row, other) || row.place - other.place));
}

// Rows without a value, or with NaN, come last in both directions.
function compareValues(row, other, metric, sign) {
  const [a, b] = [row.measured.get(metric) ?? NaN, other.measured.get(metric) ?? NaN];
  const missing = Number.isNaN(a) - Number.isNaN(b);
  if (missing) return missing;
  return a === b || Number.isNaN(a) ? row.place - other.place : sign * (a < b ? -1 : 1);
}

function directionName({ sort, reversed }) {
  const metric = metricOf({ sort });
  if (sort === "name") return reversed ? "Z to A" : "A to Z";
  if (metric === null) return reversed ? "last to first" : "first to last";
  if (metric in FACTS.higherIsBetter) return reversed ? "best first" : "worst first";
  return reversed ? "highest first" : "lowest first";
}
