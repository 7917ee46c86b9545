// The page of a training run: charts, an epoch slider and the epochs, newest first. It reloads itself.

const RELOAD_SECONDS = 30;
const UNBOUNDED = /^(grad_|G_over_)/; // diagnostics that are not fractions or correlations

function startTraining() {
  const main = find("#content");
  const ending = readEnding(main);
  const sections = findAll(".epoch").reverse();
  main.prepend(...sections);
  main.classList.add("newest-first");
  const notes = findAll(".display", main);
  notes.forEach((note) => note.remove());
  if (notes.length) find(".about").append(notes.at(-1));
  const losses = readRecords("script.loss", (record) => record.epoch - 1 + record.epoch_fraction);
  const metrics = readRecords("script.metric", (record) => positionAmong(losses, record));
  makeCharts(losses, metrics);
  showResults();

  const written = losses.length ? losses.at(-1).written : Date.parse(document.lastModified) / 1000;
  // Images of the latest epochs may have been overwritten, which a cache would not notice.
  for (const link of sections.slice(0, 2).flatMap((section) => findAll("a.image", section))) {
    const image = find("img", link);
    link.href = image.src = `${link.getAttribute("href")}?${Math.round(written)}`;
  }
  if (sections.length > 1) makeEpochViewer(find("#epochs"), sections);
  showStatus(losses, sections, written, ending);
  const { dialog, openAddressed } = makeLightbox(() => imagesOf(main), () => {});
  openAddressed();
  onEscape(dialog);
  keepPlace();
  if (!ending) reloadLater(dialog);
}

// The text of the end marker; null if there is none, or if a resumed run continued after it.
function readEnding(main) {
  const last = [...main.children].findLast((element) => !element.matches(".result"));
  return last?.matches(".end") ? last.textContent : null;
}

function readRecords(selector, positionOf) {
  const records = [];
  for (const element of findAll(selector)) {
    try {
      const record = JSON.parse(element.textContent);
      record.position = positionOf(record);
      // A resumed run replaces what was written after the point at which it resumed.
      while (records.length && records.at(-1).position >= record.position) records.pop();
      records.push(record);
    } catch {
      // The last record may be incomplete at this moment.
    }
  }
  return records;
}

// Validation knows its epoch and the number of images seen; the losses know where in the epoch that was.
function positionAmong(losses, { epoch, total_iters: seen }) {
  const after = losses.findIndex((record) => record.total_iters >= seen);
  const index = Math.min(Math.max(1, after < 0 ? losses.length - 1 : after), losses.length - 1);
  const [one, other] = [losses[index - 1], losses[index]];
  if (!one) return epoch;
  const slope = (other.position - one.position) / (other.total_iters - one.total_iters);
  const position = other.position + (seen - other.total_iters) * slope;
  return Number.isFinite(position) ? Math.min(epoch, Math.max(epoch - 1, position)) : epoch;
}

function makeCharts(losses, metrics) {
  const places = [...losses, ...metrics].map((record) => record.position).sort((a, b) => a - b);
  if (!places.length) return;
  // Without losses the chart of a metric begins with its first epoch.
  const start = losses.length ? Math.floor(places[0]) : Math.ceil(places[0]) - 1;
  const whole = [start, Math.max(places.at(-1), start + 1e-3)];
  if (zoom.range && !(zoom.range[0] < whole[1] && zoom.range[1] > whole[0])) zoom.range = null;

  const positions = losses.map(({ position }) => position);
  addChart("losses", "Losses", () => false);
  addChart("diagnostics", "Diagnostics", (name) => !UNBOUNDED.test(name));

  // These have ranges of their own: each gets its own small chart.
  const rates = readCurves(losses, ratesOf).map(asPlain);
  if (rates.length) addSmallChart("rate", rates, losses, "learning rate", describeRates(rates));
  for (const curve of readCurves(metrics, (record) => record.metrics).map(asPlain)) {
    addSmallChart("metric", [curve], metrics, curve.name + arrow(curve.name), [describeMetric(metrics, curve)]);
  }

  // Curves with a linear scale have a plot of their own.
  function addChart(name, label, isLinear) {
    const curves = readCurves(losses, (record) => record[name] ?? {});
    if (!curves.length) return;
    const linear = curves.filter((curve) => isLinear(curve.name));
    const other = curves.filter((curve) => !isLinear(curve.name));
    const display = makeDisplay(name, needsLogarithm(other));
    const chart = { positions, whole, label, display, readout };
    const panel = find(`#${name}`);
    panel.append(make("h2", {}, label), makeLegend(display, curves));
    if (other.length) makeChart(panel, { ...chart, curves: other });
    if (linear.length) makeChart(panel, { ...chart, curves: linear, linear: true });
  }

  function readout(index, shown) {
    const heads = [`epoch ${losses[index].position.toFixed(2)}`, "mean", "value"];
    const cells = ({ thick, thin }) => [readable(thick[index]), readable(thin[0][index])];
    return makeReadout(heads, shown, cells);
  }

  function addSmallChart(kind, curves, records, title, description) {
    const heading = make("h2", {}, title, " ", make("span", {}, ...description));
    const panel = make("div", { class: `small ${kind}` }, heading);
    find("#metrics").append(panel);
    find("#metrics").hidden = false;
    const positions = records.map(({ position }) => position);
    const readout = (index, shown) =>
      makeReadout([`epoch ${readable(positions[index])}`, ""], shown, ({ thick }) => [readable(thick[index])]);
    const display = { hidden: new Set(), isLog: false, redraws: [] };
    makeChart(panel, { positions, curves, whole, label: title, display, readout });
  }
}

// The learning rate of each optimizer where they differ.
function ratesOf(record) {
  return record.learning_rates ?? { "learning rate": record.learning_rate };
}

// A curve of the values themselves instead of a running mean.
function asPlain(curve) {
  return { ...curve, thin: [], thick: curve.thin[0] };
}

function describeRates(rates) {
  if (rates.length === 1) return [`${latestOf(rates[0])} now`];
  return rates.flatMap((curve) => [makeSwatch(curve.style), `${curve.name} ${latestOf(curve)}`]);
}

function latestOf({ thick }) {
  return readable(thick.findLast((value) => value !== null));
}

// The latest value, and the best if it is known which direction is better.
function describeMetric(records, curve) {
  const { name, thick, sorted } = curve;
  const higher = FACTS.higherIsBetter[name];
  const texts = [`${latestOf(curve)} now`];
  if (higher !== undefined && sorted.length) {
    const best = higher ? sorted.at(-1) : sorted[0];
    texts.push(`best ${readable(best)} in epoch ${records[thick.indexOf(best)].epoch}`);
  }
  return texts.join(" · ");
}

// Links to galleries of test.py with their means; of the same gallery the latest.
function showResults() {
  const results = new Map(findAll("script.result").map((element) => {
    const result = JSON.parse(element.textContent);
    return [result.address, result];
  }));
  for (const { address, title, date, metrics } of results.values()) {
    const means = Object.entries(metrics).map(([name, value]) => `${name}${arrow(name)} ${readable(value)}`);
    const link = make("a", { href: address }, `Results: ${title}`);
    const texts = [...means, date].map((text) => make("span", {}, text));
    find(".about").prepend(make("p", { class: "test" }, link, ...texts));
  }
}

function showStatus(records, sections, written, ending) {
  const parts = [];
  const epoch = records.length ? records.at(-1).epoch : sections[0]?.dataset.epoch;
  if (epoch) parts.push(`epoch ${epoch}`);
  const time = new Date(written * 1000);
  const isToday = time.toDateString() === new Date().toDateString();
  const style = isToday ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" };
  parts.push(`updated ${time.toLocaleString("en-GB", style)}`);
  parts.push(ending ?? `reloads every ${RELOAD_SECONDS} s`);
  find("#status").textContent = parts.join(" · ");
}

function reloadLater(dialog) {
  let due = false;
  const reload = () => {
    // Not while an image is open or something is being dragged.
    const busy = dialog.open || document.hidden || find("input:active, svg:active");
    if (due && !busy) location.reload();
  };
  setTimeout(() => {
    due = true;
    reload();
  }, RELOAD_SECONDS * 1000);
  dialog.addEventListener("close", reload);
  addEventListener("pointerup", () => setTimeout(reload));
  document.addEventListener("visibilitychange", reload);
}

// New epochs are added at the top, so the scroll position is kept relative to the epoch in view.
function keepPlace() {
  history.scrollRestoration = "manual";
  const place = recall("place");
  if (place && performance.getEntriesByType("navigation")[0]?.type !== "navigate") {
    const section = place.id && document.getElementById(place.id);
    if (section) scrollBy(0, section.getBoundingClientRect().top - place.top);
    else scrollTo(0, place.top);
  }
  addEventListener("pagehide", () => {
    const section = findAll(".epoch").find((element) => element.getBoundingClientRect().bottom > 60);
    if (scrollY < 60 || !section) remember("place", { top: scrollY });
    else remember("place", { id: section.id, top: section.getBoundingClientRect().top });
  });
}

startTraining();
