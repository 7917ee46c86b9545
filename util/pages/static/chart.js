// Charts over epochs, and their legends. All charts of a page show the same epochs: dragging sideways zooms in,
// a double click or Esc shows the whole run again.

const MAX_DOTS = 60; // lines with more points have no dots
const zoom = { range: recall("zoom"), redraws: [] };

function setZoom(range) {
  zoom.range = range;
  remember("zoom", range);
  for (const redraw of zoom.redraws) redraw();
}

// What a legend controls in one or more charts: hidden curves and the scale. It survives a reload of the page.
function makeDisplay(name, logarithmic) {
  const hidden = new Set(recall(`hidden ${name}`));
  const display = { hidden, isLog: recall(`logarithmic ${name}`) ?? logarithmic, redraws: [], toggle, setLog };
  return display;

  function toggle(curve, shown) {
    if (shown) hidden.delete(curve);
    else hidden.add(curve);
    remember(`hidden ${name}`, [...hidden]);
    for (const redraw of display.redraws) redraw();
  }

  function setLog(isLog) {
    display.isLog = isLog;
    remember(`logarithmic ${name}`, isLog);
    for (const redraw of display.redraws) redraw();
  }
}

// A button for every curve, which hides and shows it, and one for the scale.
function makeLegend(display, curves) {
  const entries = curves.map(({ name, style }) => {
    const attributes = { class: "entry", title: "Hide or show this curve" };
    const changed = (shown) => display.toggle(name, shown);
    return makeToggle(attributes, [makeSwatch(style), name], !display.hidden.has(name), changed);
  });
  const scale = makeToggle({ class: "scale" }, ["log scale"], display.isLog, display.setLog);
  return make("div", { class: "legend" }, ...entries, scale);
}

function makeToggle(attributes, content, pressed, changed) {
  const element = make("button", { type: "button", "aria-pressed": pressed, ...attributes }, ...content);
  element.addEventListener("click", () => {
    pressed = !pressed;
    element.setAttribute("aria-pressed", pressed);
    changed(pressed);
  });
  return element;
}

function makeSwatch(style) {
  const swatch = make("span", { class: "swatch" });
  swatch.innerHTML = `<svg viewBox="0 0 28 8" aria-hidden="true"><path class="thick" d="M1 4H27"/></svg>`;
  swatch.firstChild.setAttribute("style", style);
  return swatch;
}

// Appends a chart of `curves` (see curves.js) to `panel`.
//
// `positions` are the ascending places of the curves' values in epochs, `whole` is the range of all charts of
// the page, `label` describes the chart, `readout` returns an element for an index and the shown curves, and
// `display` (see above) has no effect on the scale of a chart that is `linear`.
function makeChart(panel, { positions, curves, whole, label, readout: describe, display, linear = false }) {
  const clip = `plot-${zoom.redraws.length}`;
  let frame = null;

  const readout = make("div", { class: "readout", hidden: "" });
  const plot = make("div", { class: "plot" });
  plot.innerHTML = '<svg tabindex="0" role="img"></svg>';
  const svg = find("svg", plot);
  svg.setAttribute("aria-label", `${label} over epochs`);
  const reset = makeButton("whole run", "Show the whole run (Esc)", () => setZoom(null));
  reset.className = "reset";
  plot.append(reset, readout);
  panel.append(plot);
  panel.hidden = false;

  function layOut() {
    const { width, height } = svg.getBoundingClientRect();
    const [left, right, top, bottom] = [46, Math.max(47, width - 8), 8, Math.max(9, height - 24)];
    const shown = curves.filter((curve) => !display.hidden.has(curve.name));
    const isLog = display.isLog && !linear;
    const [start, end] = zoom.range ?? whole;
    const [from, to] = zoom.range
      ? [firstFrom(positions, start), firstFrom(positions, end + 1e-9)]
      : [0, positions.length];
    const [low, high] = valueRange(shown.map((curve) => part(curve, from, to)), isLog);
    const measure = isLog ? Math.log : (value) => value;
    const heightPerUnit = (bottom - top) / (measure(high) - measure(low));
    const toX = (position) => left + ((position - start) / (end - start)) * (right - left);
    const toPosition = (x) => start + ((x - left) / (right - left)) * (end - start);
    const toY = (value) => bottom - (measure(value) - measure(low)) * heightPerUnit;
    return { left, right, top, bottom, low, high, isLog, start, end, toX, toPosition, toY, shown, from, to };
  }

  function draw() {
    frame = layOut();
    const { left, right, top, bottom, toX, toY, shown, from, to } = frame;
    const parts = drawAxes(frame);
    parts.push(`<clipPath id="${clip}"><rect x="${left - 3}" y="${top}" width="${right - left + 6}" `);
    parts.push(`height="${bottom - top}"/></clipPath><g clip-path="url(#${clip})">`);
    // One value more on each side, so that lines continue to the edge.
    const [first, last] = [Math.max(0, from - 1), to + 1];
    const line = (kind, style, values) => {
      const path = linePath(positions.slice(first, last), values.slice(first, last), toX, toY);
      parts.push(`<path class="${kind}" style="${style}" d="${path}"/>`);
    };
    for (const { thin, style } of shown) for (const values of thin) line("thin", style, values);
    for (const { thick, style } of shown) line("thick", style, thick);
    if (to - from <= MAX_DOTS) {
      for (const { dots, style } of shown) {
        for (let index = from; index < to; index++) {
          if (dots[index] !== null) parts.push(dot("value", 2.5, index, dots[index], style));
        }
      }
    }
    svg.innerHTML = parts.join("") + '</g><g class="marks"></g>';
    readout.hidden = true;
    reset.hidden = !zoom.range;
  }

  function dot(kind, radius, index, value, style) {
    const [x, y] = [frame.toX(positions[index]), frame.toY(value)];
    if (!Number.isFinite(y)) return "";
    return `<circle class="${kind}" r="${radius}" cx="${x}" cy="${y}" style="${style}"/>`;
  }

  function point(offset) {
    const { left, right, top, bottom, toX, toPosition, shown, from, to } = frame;
    if (from === to) return;
    const index = Math.min(to - 1, Math.max(from, nearest(positions, toPosition(offset))));
    const x = toX(positions[index]);
    let marks = `<line class="cursor" x1="${x}" x2="${x}" y1="${top}" y2="${bottom}"/>`;
    for (const { thick, style } of shown) {
      const y = frame.toY(thick[index] ?? NaN);
      if (y >= top && y <= bottom) marks += dot("mark", 4, index, thick[index], style);
    }
    find(".marks", svg).innerHTML = marks;
    readout.replaceChildren(describe(index, shown));
    readout.hidden = false;
    const size = readout.offsetWidth;
    const place = x < (left + right) / 2 ? Math.min(x + 14, plot.clientWidth - size) : x - 14 - size;
    readout.style.left = `${Math.max(0, place)}px`;
  }

  function select(from, to) {
    const { top, bottom } = frame;
    const [x, width] = [Math.min(from, to), Math.abs(to - from)];
    find(".marks", svg).innerHTML =
      `<rect class="selection" x="${x}" y="${top}" width="${width}" height="${bottom - top}"/>`;
    readout.hidden = true;
  }

  function leave() {
    find(".marks", svg)?.replaceChildren();
    readout.hidden = true;
  }

  onDrag(svg, () => frame, { point, select, leave });
  onChartKeys(svg, whole);
  zoom.redraws.push(draw);
  display.redraws.push(draw);
  new ResizeObserver(draw).observe(svg);
}

function drawAxes({ left, right, top, bottom, low, high, isLog, start, end, toX, toY }) {
  const parts = [];
  for (const tick of (isLog ? logTicks : linearTicks)(low, high, Math.max(4, (bottom - top) / 45))) {
    const y = Math.round(toY(tick)) + 0.5;
    parts.push(`<line class="grid" x1="${left}" x2="${right}" y1="${y}" y2="${y}"/>`);
    parts.push(`<text x="${left - 8}" y="${y + 4}" text-anchor="end">${readable(tick)}</text>`);
  }
  linearTicks(start, end, (right - left) / 60).forEach((tick, index) => {
    const x = Math.min(toX(tick), right - 8); // a number at the very end would be cut off
    const text = (index ? "" : "epoch ") + readable(tick);
    parts.push(`<text x="${x}" y="${bottom + 18}" text-anchor="middle">${text}</text>`);
  });
  return parts;
}

// The readout's table: a heading row, and a row of cells for every curve.
function makeReadout(heads, curves, cellsOf) {
  const head = make("tr", {}, ...heads.map((text) => make("th", {}, text)));
  const body = curves.map((curve) => {
    const cells = cellsOf(curve).map((text, index) => make("td", index ? { class: "minor" } : {}, text));
    return make("tr", {}, make("td", {}, makeSwatch(curve.style), curve.name), ...cells);
  });
  return make("table", {}, head, ...body);
}

// Moving sideways with a finger or a pressed button selects epochs to zoom in on; otherwise the pointer reads
// values.
function onDrag(svg, frameOf, { point, select, leave }) {
  let started = null;
  const offset = (event) => {
    const { left, right } = frameOf();
    return Math.min(right, Math.max(left, event.clientX - svg.getBoundingClientRect().left));
  };
  const isWide = (event) => started !== null && Math.abs(offset(event) - started) > 8;
  svg.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    started = offset(event);
    svg.setPointerCapture(event.pointerId);
    point(started);
  });
  svg.addEventListener("pointermove", (event) => {
    if (isWide(event)) select(started, offset(event));
    else point(offset(event));
  });
  svg.addEventListener("pointerup", (event) => {
    const ends = isWide(event) ? [started, offset(event)].sort((a, b) => a - b) : null;
    started = null;
    if (ends) setZoom(ends.map(frameOf().toPosition));
  });
  svg.addEventListener("pointercancel", () => {
    started = null; // the page scrolls instead
    leave();
  });
  svg.addEventListener("pointerleave", () => started === null && leave());
  svg.addEventListener("dblclick", () => setZoom(null));
}

// While a chart has the focus, + and - zoom and the arrow keys move.
function onChartKeys(svg, whole) {
  svg.addEventListener("keydown", (event) => {
    if (!isForPage(event)) return;
    const [start, end] = zoom.range ?? whole;
    const change = {
      "+": [0.25, -0.25],
      "-": [-0.5, 0.5],
      ArrowLeft: [-0.25, -0.25],
      ArrowRight: [0.25, 0.25],
    }[event.key];
    if (!change) return;
    event.preventDefault();
    const size = end - start;
    const wanted = [start + change[0] * size, end + change[1] * size];
    // At an end of the run a move stops and keeps its size.
    const shift = Math.max(0, whole[0] - wanted[0]) - Math.max(0, wanted[1] - whole[1]);
    const range = change[0] === change[1] ? wanted.map((value) => value + shift) : wanted;
    const kept = [Math.max(whole[0], range[0]), Math.min(whole[1], range[1])];
    setZoom(kept[0] <= whole[0] && kept[1] >= whole[1] ? null : kept);
  });
}

// Esc shows the whole run again, unless an image is open.
function onEscape(dialog) {
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && zoom.range && !dialog.open) setZoom(null);
  });
}
