const find = (selector, root = document) => root.querySelector(selector);
const findAll = (selector, root = document) => [...root.querySelectorAll(selector)];

function make(name, attributes = {}, ...content) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...content);
  return element;
}

// Small settings outlive a reload of the page in its tab; without storage they just do not.
function recall(name) {
  try {
    return JSON.parse(sessionStorage.getItem(location.pathname + " " + name));
  } catch {
    return null;
  }
}

function remember(name, value) {
  try {
    sessionStorage.setItem(location.pathname + " " + name, JSON.stringify(value));
  } catch {
    // Nothing depends on it.
  }
}

// Lightbox ---------------------------------------------------------------------------------------

// Left and right step through all pictures in the order of the page, up and down through the pictures
// with the same key: the same label (and sample) in the row or epoch above or below.
function makeLightbox() {
  const links = findAll("a.picture");
  const columns = new Map();
  for (const link of links) {
    if (!columns.has(link.dataset.key)) columns.set(link.dataset.key, []);
    columns.get(link.dataset.key).push(link);
  }
  let current = null;

  const image = make("img");
  const stage = make("div", { class: "stage" }, image);
  const caption = make("p", { class: "caption", "aria-live": "polite" });
  const place = make("p", { class: "place" });
  const button = (text, label, action) => {
    const element = make("button", { type: "button", "aria-label": label, title: label }, text);
    element.addEventListener("click", action);
    return element;
  };
  const closing = button("✕", "Close (Esc)", () => dialog.close());
  const pixels = button("Pixels", "Show sharp pixels (P)", togglePixels);
  const steps = {
    ArrowLeft: button("←", "Previous picture (left arrow)", () => step("ArrowLeft")),
    ArrowUp: button("↑", "Same picture in the row above (up arrow)", () => step("ArrowUp")),
    ArrowDown: button("↓", "Same picture in the row below (down arrow)", () => step("ArrowDown")),
    ArrowRight: button("→", "Next picture (right arrow)", () => step("ArrowRight")),
  };
  const dialog = make(
    "dialog",
    { "aria-label": "Enlarged picture" },
    make("div", { class: "bar" }, caption, place, closing),
    stage,
    make("div", { class: "bar steps" }, ...Object.values(steps), pixels),
  );
  document.body.append(dialog);

  function neighbour(key) {
    const sequence = key === "ArrowLeft" || key === "ArrowRight" ? links : columns.get(current.dataset.key);
    return sequence[sequence.indexOf(current) + (key === "ArrowLeft" || key === "ArrowUp" ? -1 : 1)];
  }

  function show(link) {
    current = link;
    const thumbnail = find("img", link);
    image.style.setProperty("--ratio", thumbnail.getAttribute("width") / thumbnail.getAttribute("height"));
    image.src = thumbnail.src;
    image.alt = thumbnail.alt;
    caption.textContent = thumbnail.alt;
    place.textContent = `${links.indexOf(link) + 1} / ${links.length}`;
    for (const [key, element] of Object.entries(steps)) {
      const next = neighbour(key);
      element.disabled = !next;
      if (next) new Image().src = find("img", next).src; // so that the next step is immediate
    }
    if (!dialog.open) dialog.showModal();
    setHash("#open=" + link.getAttribute("href"));
  }

  function step(key) {
    const next = neighbour(key);
    if (next) show(next);
  }

  function togglePixels() {
    pixels.setAttribute("aria-pressed", image.classList.toggle("pixels"));
  }

  dialog.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key in steps) {
      event.preventDefault();
      step(event.key);
    } else if (event.key === "p") {
      togglePixels();
    }
  });
  dialog.addEventListener("close", () => {
    setHash("");
    current.scrollIntoView({ block: "nearest" });
    current.focus({ preventScroll: true });
  });
  stage.addEventListener("click", (event) => event.target === stage && dialog.close());
  onSwipe(stage, step);

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.picture");
    if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    show(link);
  });
  function showAddressed() {
    const link = links.find((link) => location.hash === "#open=" + link.getAttribute("href"));
    if (link) show(link);
  }
  addEventListener("hashchange", showAddressed);
  showAddressed();
  return dialog;
}

function setHash(hash) {
  history.replaceState(null, "", hash || location.pathname + location.search);
}

function onSwipe(element, step) {
  let start = null;
  element.addEventListener("touchstart", (event) => {
    start = event.touches.length === 1 ? event.touches[0] : null;
  });
  element.addEventListener("touchend", (event) => {
    if (!start) return;
    const right = event.changedTouches[0].clientX - start.clientX;
    const down = event.changedTouches[0].clientY - start.clientY;
    start = null;
    if (Math.max(Math.abs(right), Math.abs(down)) < 40) return;
    // The picture follows the finger: a swipe to the left brings what is on the right.
    if (Math.abs(right) > Math.abs(down)) step(right < 0 ? "ArrowRight" : "ArrowLeft");
    else step(down < 0 ? "ArrowDown" : "ArrowUp");
  });
}

// Loss curves ------------------------------------------------------------------------------------

function readRecords() {
  const records = [];
  for (const element of findAll("script.loss")) {
    try {
      const record = JSON.parse(element.textContent);
      record.position = record.epoch - 1 + record.epoch_fraction;
      // A run that was resumed replaces what it had written after the point where it resumed.
      while (records.length && records.at(-1).position >= record.position) records.pop();
      records.push(record);
    } catch {
      // The last record may be half written at this moment.
    }
  }
  return records;
}

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

function readable(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size && (size < 1e-3 || size >= 1e6)) return Number(value.toPrecision(2)).toExponential();
  return String(Number(value.toPrecision(4)));
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

function readSeries(records) {
  const names = [...new Set(records.flatMap((record) => Object.keys(record.losses)))];
  return names.map((name, index) => {
    const raw = records.map((record) => record.losses[name] ?? null);
    const sorted = Float64Array.from(raw.filter((value) => value !== null)).sort();
    const span = Math.min(200, Math.max(1, records.length / 40));
    return { name, raw, sorted, smooth: smooth(raw, span), color: `--color: var(--loss-${index % 8})` };
  });
}

function makeChart(panel, records) {
  const positions = records.map((record) => record.position);
  const seriesList = readSeries(records);
  const hidden = new Set(recall("hidden") ?? []);
  let logarithmic = recall("logarithmic") ?? needsLogarithm(seriesList);
  let frame = null;

  const readout = make("div", { class: "readout", hidden: "" });
  panel.innerHTML = '<svg role="img" aria-label="Losses over epochs"></svg>';
  panel.prepend(makeLegend());
  panel.append(readout);
  panel.hidden = false;
  const svg = find("svg", panel);

  function makeLegend() {
    const entries = seriesList.map(({ name, color }) => {
      const swatch = make("span", { class: "swatch", style: color });
      return toggle({ class: "loss" }, [swatch, name], !hidden.has(name), (shown) => {
        if (shown) hidden.delete(name);
        else hidden.add(name);
        remember("hidden", [...hidden]);
      });
    });
    const scale = toggle({ class: "scale" }, ["log scale"], logarithmic, (pressed) => {
      logarithmic = pressed;
      remember("logarithmic", pressed);
    });
    return make("div", { class: "legend" }, ...entries, scale);
  }

  function toggle(attributes, content, pressed, changed) {
    const element = make("button", { type: "button", "aria-pressed": pressed, ...attributes }, ...content);
    element.addEventListener("click", () => {
      pressed = !pressed;
      element.setAttribute("aria-pressed", pressed);
      changed(pressed);
      draw();
    });
    return element;
  }

  function layOut() {
    const { width, height } = svg.getBoundingClientRect();
    const [left, right, top, bottom] = [46, width - 8, 8, height - 24];
    const shown = seriesList.filter((series) => !hidden.has(series.name));
    const [low, high] = valueRange(shown, logarithmic);
    const start = Math.floor(positions[0]);
    const end = Math.max(positions.at(-1), start + 1e-3);
    const measure = logarithmic ? Math.log : (value) => value;
    const heightPerUnit = (bottom - top) / (measure(high) - measure(low));
    const toX = (position) => left + ((position - start) / (end - start)) * (right - left);
    const toY = (value) => bottom - (measure(value) - measure(low)) * heightPerUnit;
    return { left, right, top, bottom, low, high, start, end, toX, toY, shown };
  }

  function draw() {
    frame = layOut();
    const { left, right, top, bottom, low, high, start, end, toX, toY, shown } = frame;
    const parts = [];
    for (const tick of (logarithmic ? logTicks : linearTicks)(low, high, (bottom - top) / 45)) {
      const y = Math.round(toY(tick)) + 0.5;
      parts.push(`<line class="grid" x1="${left}" x2="${right}" y1="${y}" y2="${y}"/>`);
      parts.push(`<text x="${left - 8}" y="${y + 4}" text-anchor="end">${readable(tick)}</text>`);
    }
    linearTicks(start, end, (right - left) / 90).forEach((tick, index) => {
      const x = Math.min(toX(tick), right - 8); // a number at the very end would be cut off
      const text = (index ? "" : "epoch ") + readable(tick);
      parts.push(`<text x="${x}" y="${bottom + 18}" text-anchor="middle">${text}</text>`);
    });
    parts.push(`<clipPath id="plot"><rect x="${left}" y="${top}" width="${Math.max(0, right - left)}" `);
    parts.push(`height="${bottom - top}"/></clipPath><g clip-path="url(#plot)">`);
    for (const line of ["raw", "smooth"]) {
      for (const series of shown) {
        const path = linePath(positions, series[line], toX, toY);
        parts.push(`<path class="${line}" style="${series.color}" d="${path}"/>`);
      }
    }
    svg.innerHTML = parts.join("") + '</g><g id="cursor"></g>';
    readout.hidden = true;
  }

  function nearest(position) {
    let [from, to] = [0, positions.length - 1];
    while (from < to) {
      const middle = (from + to) >> 1;
      if (positions[middle] < position) from = middle + 1;
      else to = middle;
    }
    return from && position - positions[from - 1] < positions[from] - position ? from - 1 : from;
  }

  function point(event) {
    const { left, right, top, bottom, start, end, toX, toY, shown } = frame;
    const offset = event.clientX - svg.getBoundingClientRect().left;
    const index = nearest(start + ((offset - left) / (right - left)) * (end - start));
    const x = toX(positions[index]);
    let marks = `<line class="cursor" x1="${x}" x2="${x}" y1="${top}" y2="${bottom}"/>`;
    for (const series of shown) {
      const y = toY(series.smooth[index] ?? NaN);
      if (y >= top && y <= bottom) marks += `<circle r="4" cx="${x}" cy="${y}" style="${series.color}"/>`;
    }
    find("#cursor", svg).innerHTML = marks;
    readout.replaceChildren(makeReadout(records[index], shown, index));
    readout.hidden = false;
    const onRight = x < (left + right) / 2;
    const edge = svg.getBoundingClientRect().left - panel.getBoundingClientRect().left;
    readout.style.left = onRight ? `${edge + x + 14}px` : "auto";
    readout.style.right = onRight ? "auto" : `${panel.offsetWidth - edge - x + 14}px`;
  }

  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointerleave", () => {
    find("#cursor", svg)?.replaceChildren();
    readout.hidden = true;
  });
  new ResizeObserver(draw).observe(svg);
}

function makeReadout(record, shown, index) {
  const head = [`epoch ${record.position.toFixed(2)}`, "smooth", "raw"].map((text) => make("th", {}, text));
  const rows = shown.map((series) => {
    const swatch = make("span", { class: "swatch", style: series.color });
    const name = make("td", {}, swatch, series.name);
    const smooth = make("td", {}, readable(series.smooth[index]));
    const raw = make("td", { class: "raw" }, readable(series.raw[index]));
    return make("tr", {}, name, smooth, raw);
  });
  const rate = make("td", { colspan: 3, class: "raw" }, `learning rate ${readable(record.learning_rate)}`);
  return make("table", {}, make("tr", {}, ...head), ...rows, make("tr", {}, rate));
}

// Pages ------------------------------------------------------------------------------------------

const RELOAD_SECONDS = 30;

function startGallery() {
  const samples = findAll(".sample").length;
  const pictures = findAll("a.picture").length;
  const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
  find("#status").textContent = `${count(samples, "sample")} · ${count(pictures, "picture")}`;
  makeLightbox();
}

function startTraining() {
  const main = find("#content");
  const records = readRecords();
  // A run that was resumed has gone on after its marker.
  const ending = main.lastElementChild?.matches(".end") ? main.lastElementChild.textContent : null;
  const sections = findAll(".epoch").reverse();
  main.prepend(...sections);
  main.classList.add("newest-first");
  if (records.length) makeChart(find("#losses"), records);

  const written = records.length ? records.at(-1).written : Date.parse(document.lastModified) / 1000;
  // The pictures of the latest epochs may have been overwritten, which a cache would not notice.
  for (const image of sections.slice(0, 2).flatMap((section) => findAll("img", section))) {
    image.src = `${image.getAttribute("src")}?${Math.round(written)}`;
  }
  showStatus(records, sections, written, ending);
  const lightbox = makeLightbox();
  keepPlace();
  if (!ending) reloadLater(lightbox);
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

function reloadLater(lightbox) {
  let due = false;
  const reload = () => {
    if (due && !lightbox.open && !document.hidden) location.reload();
  };
  setTimeout(() => {
    due = true;
    reload();
  }, RELOAD_SECONDS * 1000);
  lightbox.addEventListener("close", reload);
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

if (document.body.classList.contains("training")) startTraining();
else startGallery();
