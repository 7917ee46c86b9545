// The page of a training run: curves, an epoch slider and the epochs, newest first; it reloads by itself.

const RELOAD_SECONDS = 30;

function startTraining() {
  const main = find("#content");
  // A run that was resumed has gone on after its marker.
  const ending = main.lastElementChild?.matches(".end") ? main.lastElementChild.textContent : null;
  const sections = findAll(".epoch").reverse();
  main.prepend(...sections);
  main.classList.add("newest-first");
  const losses = readRecords("script.loss", (record) => record.epoch - 1 + record.epoch_fraction);
  const metrics = readRecords("script.metric", (record) => positionAmong(losses, record));
  makeCharts(losses, metrics);

  const written = losses.length ? losses.at(-1).written : Date.parse(document.lastModified) / 1000;
  // The pictures of the latest epochs may have been overwritten, which a cache would not notice.
  for (const link of sections.slice(0, 2).flatMap((section) => findAll("a.picture", section))) {
    const image = find("img", link);
    link.href = image.src = `${link.getAttribute("href")}?${Math.round(written)}`;
  }
  if (sections.length > 1) makeEpochViewer(find("#epochs"), sections);
  showStatus(losses, sections, written, ending);
  const { dialog, openAddressed } = makeLightbox(() => picturesOf(main), () => {});
  openAddressed();
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && zoom.range && !dialog.open) setZoom(null);
  });
  keepPlace();
  if (!ending) reloadLater(dialog);
}

function readRecords(selector, positionOf) {
  const records = [];
  for (const element of findAll(selector)) {
    try {
      const record = JSON.parse(element.textContent);
      record.position = positionOf(record);
      // A run that was resumed replaces what it had written after the point where it resumed.
      while (records.length && records.at(-1).position >= record.position) records.pop();
      records.push(record);
    } catch {
      // The last record may be half written at this moment.
    }
  }
  return records;
}

// Validation knows its epoch and how many pictures the run had seen; where that was, losses tell.
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
  const positions = [...losses, ...metrics].map((record) => record.position).sort((a, b) => a - b);
  if (!positions.length) return;
  // Validation alone is shown from where its first epoch began.
  const start = losses.length ? Math.floor(positions[0]) : Math.ceil(positions[0]) - 1;
  const whole = [start, Math.max(positions.at(-1), start + 1e-3)];
  if (zoom.range && !(zoom.range[0] < whole[1] && zoom.range[1] > whole[0])) zoom.range = null;
  if (losses.length) {
    const series = readSeries(losses, (record) => record.losses);
    const logarithmic = needsLogarithm(series);
    const chart = { records: losses, series, whole, name: "losses", label: "Losses", legend: true, logarithmic };
    makeChart(find("#losses"), { ...chart, readout: readLosses });
  }
  // Metrics have ranges of their own: each gets its own chart.
  const panel = find("#metrics");
  readSeries(metrics, (record) => record.metrics).forEach((series, index) => {
    const own = make("div", { class: "metric" }, describeMetric(metrics, series));
    panel.append(own);
    panel.hidden = false;
    const chart = { records: metrics, series: [{ ...series, smooth: series.raw }], whole, name: `metric-${index}` };
    makeChart(own, { ...chart, label: series.name, legend: false, logarithmic: false, readout: readMetric });
  });
}

// Its latest value, and its best where it is known which way is better.
function describeMetric(records, { name, raw, sorted }) {
  const higher = JSON.parse(document.body.dataset.higherIsBetter)[name];
  const texts = [`${readable(raw.findLast((value) => value !== null))} now`];
  if (higher !== undefined && sorted.length) {
    const best = higher ? sorted.at(-1) : sorted[0];
    texts.push(`best ${readable(best)} in epoch ${records[raw.indexOf(best)].epoch}`);
  }
  return make("h2", {}, name, " ", make("span", {}, texts.join(" · ")));
}

function readLosses(record, shown, index) {
  const head = [`epoch ${record.position.toFixed(2)}`, "smooth", "raw"].map((text) => make("th", {}, text));
  const rows = shown.map((series) => {
    const smooth = make("td", {}, readable(series.smooth[index]));
    const raw = make("td", { class: "raw" }, readable(series.raw[index]));
    return make("tr", {}, nameCell(series), smooth, raw);
  });
  const rate = make("td", { colspan: 3, class: "raw" }, `learning rate ${readable(record.learning_rate)}`);
  return make("table", {}, make("tr", {}, ...head), ...rows, make("tr", {}, rate));
}

function readMetric(record, [series], index) {
  const head = make("tr", {}, make("th", { colspan: 2 }, `epoch ${readable(record.position)}`));
  return make("table", {}, head, make("tr", {}, nameCell(series), make("td", {}, readable(series.raw[index]))));
}

function nameCell(series) {
  return make("td", {}, make("span", { class: "swatch", style: series.color }), series.name);
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
    // Not while a picture is open or something is being dragged.
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

// New epochs come on top, so the place is kept relative to the epoch that is in view.
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
