// The numbers behind charts: curves, ranges, ticks, paths.
//
// A curve has a `name`, a `style`, `thin` lines (an array of values each; null is a gap), a `thick` line, the
// values that are drawn as `dots`, and all values `sorted`.

const COLORS = 12;
const DASHES = ["none", "8 4", "2 3", "9 3 2 3", "14 4", "4 2", "14 3 2 3 2 3"]; // no common factor with COLORS

function makeCurve(name, index, { thin, thick, dots }) {
  const style = `--color: var(--curve-${index % COLORS}); --dashes: ${DASHES[index % DASHES.length]}`;
  return { name, index, style, thin, thick, dots, sorted: sortedValues(thin.length ? thin.flat() : thick) };
}

// One curve per name in the values of the records, as a running mean over the values themselves.
function readCurves(records, valuesOf) {
  const names = [...new Set(records.flatMap((record) => Object.keys(valuesOf(record))))];
  return names.map((name, index) => {
    const values = records.map((record) => valuesOf(record)[name] ?? null);
    const span = Math.min(200, Math.max(1, records.length / 40));
    return makeCurve(name, index, { thin: [values], thick: smooth(values, span), dots: values });
  });
}

// An exponential running mean over about `span` values; gaps stay gaps.
function smooth(values, span) {
  const keep = 1 - 2 / (span + 1);
  let sum = 0;
  let weight = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = sum * keep + value;
    weight = weight * keep + 1;
    return sum / weight;
  });
}

// Ticks at 1, 2 or 5 times a power of ten.
function linearTicks(low, high, count) {
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const size = [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999) * power;
  const ticks = [];
  for (let index = Math.ceil(low / size - 1e-9); index * size <= high + size * 1e-9; index++) {
    ticks.push(index * size);
  }
  return ticks;
}

function logTicks(low, high, count) {
  const decades = Math.log10(high / low);
  if (decades < 0.7) return linearTicks(low, high, count);
  const factors = 3 * decades <= 2 * count ? [1, 2, 5] : [1];
  const stride = Math.ceil(decades / count);
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++) {
    if (power % stride) continue;
    for (const factor of factors) ticks.push(factor * 10 ** power);
  }
  return ticks.filter((tick) => tick >= low && tick <= high);
}

// The value below which the given fraction of the sorted values lies.
function quantile(sorted, fraction) {
  return sorted[Math.round(fraction * (sorted.length - 1))];
}

// The range of the vertical axis. Curves often begin with a spike and have more of them later, so the outermost
// values are cut off.
function valueRange(curves, logarithmic) {
  let low = Infinity;
  let high = -Infinity;
  for (const { sorted, thick } of curves) {
    const values = logarithmic ? sorted.filter((value) => value > 0) : sorted;
    if (!values.length) continue;
    const [least, most] = [quantile(values, 0.005), quantile(values, 0.995)];
    const peak = thick.reduce((peak, value) => Math.max(peak, value ?? peak), most);
    const valley = thick.reduce((valley, value) => Math.min(valley, value ?? valley), most);
    // On a logarithmic scale values near zero reach far down; the thick line is what matters.
    low = Math.min(low, logarithmic ? Math.max(least, valley / 4) : least);
    high = Math.max(high, Math.min(peak, most + 0.5 * Math.abs(most - least)));
  }
  if (low > high) return [logarithmic ? 0.1 : 0, 1];
  if (logarithmic) return [low / 1.1, high * 1.1];
  if (low >= 0 && low < 0.4 * high) low = 0;
  const margin = 0.04 * (high - low) || Math.abs(high) * 0.1 || 1;
  return [low === 0 ? 0 : low - margin, high + margin];
}

// Whether one curve is ten times larger than another, which a linear scale would flatten.
function needsLogarithm(curves) {
  const middles = curves.filter(({ sorted }) => sorted.length).map(({ sorted }) => quantile(sorted, 0.5));
  const least = Math.min(...middles);
  return least > 0 && Math.max(...middles) > 10 * least;
}

// The path of a line, with at most two points in a column of pixels, so that lines of any length draw quickly.
function linePath(positions, values, toX, toY) {
  const parts = [];
  let pen = "M";
  let column = null;
  const flush = () => {
    if (!column) return;
    const { x, low, high } = column;
    parts.push(`${pen}${x} ${low.toFixed(1)}`);
    if (pen === "M") parts.push("h0"); // makes a point between two gaps visible
    if (low !== high) parts.push(`L${x} ${high.toFixed(1)}`);
    pen = "L";
    column = null;
  };
  positions.forEach((position, index) => {
    const y = values[index] === null ? NaN : toY(values[index]);
    if (!Number.isFinite(y)) {
      flush();
      pen = "M";
      return;
    }
    const x = toX(position).toFixed(0);
    if (column && column.x === x) {
      column.low = Math.min(column.low, y);
      column.high = Math.max(column.high, y);
    } else {
      flush();
      column = { x, low: y, high: y };
    }
  });
  flush();
  return parts.join("");
}

function sortedValues(raw) {
  return Float64Array.from(raw.filter((value) => value !== null)).sort();
}

// A curve with the values of the indices `from` to `to` (exclusive) alone.
function part(curve, from, to) {
  if (from === 0 && to === curve.thick.length) return curve;
  const thin = curve.thin.map((values) => values.slice(from, to));
  const thick = curve.thick.slice(from, to);
  return { ...curve, thick, sorted: sortedValues(thin.length ? thin.flat() : thick) };
}

// The index of the first of the sorted positions that is not below `position`.
function firstFrom(positions, position) {
  let [from, to] = [0, positions.length];
  while (from < to) {
    const middle = (from + to) >> 1;
    if (positions[middle] < position) from = middle + 1;
    else to = middle;
  }
  return from;
}

// The index of the sorted position that is nearest to `position`.
function nearest(positions, position) {
  const after = Math.min(firstFrom(positions, position), positions.length - 1);
  return after && position - positions[after - 1] < positions[after] - position ? after - 1 : after;
}
