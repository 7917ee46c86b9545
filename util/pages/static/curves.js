// What is drawn of a run's records: smoothed curves, ranges, ticks, paths.

// A running mean with weights that fade over `span` values; gaps stay gaps.
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

// The value below which the given share of the sorted values lies.
function quantile(sorted, share) {
  return sorted[Math.round(share * (sorted.length - 1))];
}

// Curves tend to start with a spike and to have more of them later: the outermost values are cut off.
function valueRange(seriesList, logarithmic) {
  let low = Infinity;
  let high = -Infinity;
  for (const { sorted, smooth } of seriesList) {
    const values = logarithmic ? sorted.filter((value) => value > 0) : sorted;
    if (!values.length) continue;
    const [least, most] = [quantile(values, 0.005), quantile(values, 0.995)];
    const peak = smooth.reduce((peak, value) => Math.max(peak, value ?? peak), most);
    const valley = smooth.reduce((valley, value) => Math.min(valley, value ?? valley), most);
    // Values near zero reach far down on a logarithmic scale, where the running mean is what matters.
    low = Math.min(low, logarithmic ? Math.max(least, valley / 4) : least);
    high = Math.max(high, Math.min(peak, most + 0.5 * Math.abs(most - least)));
  }
  if (low > high) return [logarithmic ? 0.1 : 0, 1];
  if (logarithmic) return [low / 1.1, high * 1.1];
  if (low >= 0 && low < 0.4 * high) low = 0;
  const margin = 0.04 * (high - low) || Math.abs(high) * 0.1 || 1;
  return [low === 0 ? 0 : low - margin, high + margin];
}

// On a linear scale a loss that is ten times larger than the others would flatten them.
function needsLogarithm(seriesList) {
  const middles = seriesList.filter(({ sorted }) => sorted.length).map(({ sorted }) => quantile(sorted, 0.5));
  const least = Math.min(...middles);
  return least > 0 && Math.max(...middles) > 10 * least;
}

// One column of pixels gets at most two points, so that a line of any length draws quickly.
function linePath(positions, values, toX, toY) {
  const parts = [];
  let pen = "M";
  let column = null;
  const flush = () => {
    if (!column) return;
    const { x, low, high } = column;
    parts.push(`${pen}${x} ${low.toFixed(1)}`);
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

function readSeries(records, values) {
  const names = [...new Set(records.flatMap((record) => Object.keys(values(record))))];
  return names.map((name, index) => {
    const raw = records.map((record) => values(record)[name] ?? null);
    const span = Math.min(200, Math.max(1, records.length / 40));
    const color = `--color: var(--loss-${index % 8})`;
    return { name, raw, sorted: sortedValues(raw), smooth: smooth(raw, span), color };
  });
}

function sortedValues(raw) {
  return Float64Array.from(raw.filter((value) => value !== null)).sort();
}

// A series as far as its range of values counts: from one record to before another.
function part(series, from, to) {
  if (from === 0 && to === series.raw.length) return series;
  return { ...series, sorted: sortedValues(series.raw.slice(from, to)), smooth: series.smooth.slice(from, to) };
}

// The first of the sorted positions that is not below the given one.
function firstFrom(positions, position) {
  let [from, to] = [0, positions.length];
  while (from < to) {
    const middle = (from + to) >> 1;
    if (positions[middle] < position) from = middle + 1;
    else to = middle;
  }
  return from;
}

function nearest(positions, position) {
  const after = Math.min(firstFrom(positions, position), positions.length - 1);
  return after && position - positions[after - 1] < positions[after] - position ? after - 1 : after;
}
