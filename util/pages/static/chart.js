// Charts over epochs. All charts of a page show the same epochs: dragging sideways zooms in, a double click
// or Esc shows the whole run again.

const MOST_DOTS = 60; // more points than these are a line without dots
const zoom = { range: recall("zoom"), redraws: [] };

function setZoom(range) {
  zoom.range = range;
  remember("zoom", range);
  for (const redraw of zoom.redraws) redraw();
}

// Draws `series` of `records`, which have ascending positions, between the epochs of `whole`.
//
// `name` distinguishes what is remembered of this chart, `label` describes it, `rows` makes the readout's
// rows of an index and the shown series. `legend` says whether curves can be switched off and the scale
// changed, `logarithmic` which scale is the first.
function makeChart(panel, chart) {
  const { records, series: seriesList, whole, name, label, readout: describe, legend, logarithmic } = chart;
  const positions = records.map((record) => record.position);
  const hidden = new Set(legend ? recall("hidden") : []);
  const clip = `plot-${name}`;
  let isLog = (legend && recall("logarithmic")) ?? logarithmic;
  let frame = null;

  const readout = make("div", { class: "readout", hidden: "" });
  const plot = make("div", { class: "plot" });
  plot.innerHTML = '<svg tabindex="0" role="img"></svg>';
  const svg = find("svg", plot);
  svg.setAttribute("aria-label", `${label} over epochs`);
  const reset = makeButton("whole run", "Show the whole run (Esc)", () => setZoom(null));
  reset.className = "reset";
  if (legend) panel.append(makeLegend());
  plot.append(reset, readout);
  panel.append(plot);
  panel.hidden = false;

  function makeLegend() {
    const entries = seriesList.map(({ name, color }) => {
      const swatch = make("span", { class: "swatch", style: color });
      return makeToggle({ class: "loss" }, [swatch, name], !hidden.has(name), (shown) => {
        if (shown) hidden.delete(name);
        else hidden.add(name);
        remember("hidden", [...hidden]);
      });
    });
    const scale = makeToggle({ class: "scale" }, ["log scale"], isLog, (pressed) => {
      isLog = pressed;
      remember("logarithmic", pressed);
    });
    return make("div", { class: "legend" }, ...entries, scale);
  }

  function makeToggle(attributes, content, pressed, changed) {
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
    const [left, right, top, bottom] = [46, Math.max(47, width - 8), 8, Math.max(9, height - 24)];
    const shown = seriesList.filter((series) => !hidden.has(series.name));
    const [start, end] = zoom.range ?? whole;
    const [from, to] = zoom.range
      ? [firstFrom(positions, start), firstFrom(positions, end + 1e-9)]
      : [0, records.length];
    const [low, high] = valueRange(shown.map((series) => part(series, from, to)), isLog);
    const measure = isLog ? Math.log : (value) => value;
    const heightPerUnit = (bottom - top) / (measure(high) - measure(low));
    const toX = (position) => left + ((position - start) / (end - start)) * (right - left);
    const toPosition = (x) => start + ((x - left) / (right - left)) * (end - start);
    const toY = (value) => bottom - (measure(value) - measure(low)) * heightPerUnit;
    return { left, right, top, bottom, low, high, start, end, toX, toPosition, toY, shown, from, to };
  }

  function draw() {
    frame = layOut();
    const { left, right, top, bottom, toX, toY, shown, from, to } = frame;
    const parts = drawAxes(frame, isLog);
    parts.push(`<clipPath id="${clip}"><rect x="${left - 3}" y="${top}" width="${right - left + 6}" `);
    parts.push(`height="${bottom - top}"/></clipPath><g clip-path="url(#${clip})">`);
    // One record more on each side, so that lines go on to the edge.
    const [first, last] = [Math.max(0, from - 1), to + 1];
    for (const line of ["raw", "smooth"]) {
      for (const series of shown) {
        const path = linePath(positions.slice(first, last), series[line].slice(first, last), toX, toY);
        parts.push(`<path class="${line}" style="${series.color}" d="${path}"/>`);
      }
    }
    if (to - from <= MOST_DOTS) {
      for (const series of shown) {
        for (let index = from; index < to; index++) {
          const value = series.raw[index];
          if (value !== null) parts.push(dot("record", 2.5, index, value, series.color));
        }
      }
    }
    svg.innerHTML = parts.join("") + '</g><g class="marks"></g>';
    readout.hidden = true;
    reset.hidden = !zoom.range;
  }

  function dot(kind, radius, index, value, color) {
    const [x, y] = [frame.toX(positions[index]), frame.toY(value)];
    if (!Number.isFinite(y)) return "";
    return `<circle class="${kind}" r="${radius}" cx="${x}" cy="${y}" style="${color}"/>`;
  }

  function point(offset) {
    const { left, right, top, bottom, toX, toPosition, shown, from, to } = frame;
    if (from === to) return;
    const index = Math.min(to - 1, Math.max(from, nearest(positions, toPosition(offset))));
    const x = toX(positions[index]);
    let marks = `<line class="cursor" x1="${x}" x2="${x}" y1="${top}" y2="${bottom}"/>`;
    for (const series of shown) {
      const y = frame.toY(series.smooth[index] ?? NaN);
      if (y >= top && y <= bottom) marks += dot("mark", 4, index, series.smooth[index], series.color);
    }
    find(".marks", svg).innerHTML = marks;
    readout.replaceChildren(describe(records[index], shown, index));
    readout.hidden = false;
    const onRight = x < (left + right) / 2;
    readout.style.left = onRight ? `${x + 14}px` : "auto";
    readout.style.right = onRight ? "auto" : `${right + 8 - x + 14}px`;
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
  new ResizeObserver(draw).observe(svg);
}

function drawAxes({ left, right, top, bottom, low, high, start, end, toX, toY }, isLog) {
  const parts = [];
  for (const tick of (isLog ? logTicks : linearTicks)(low, high, Math.max(4, (bottom - top) / 45))) {
    const y = Math.round(toY(tick)) + 0.5;
    parts.push(`<line class="grid" x1="${left}" x2="${right}" y1="${y}" y2="${y}"/>`);
    parts.push(`<text x="${left - 8}" y="${y + 4}" text-anchor="end">${readable(tick)}</text>`);
  }
  linearTicks(start, end, (right - left) / 90).forEach((tick, index) => {
    const x = Math.min(toX(tick), right - 8); // a number at the very end would be cut off
    const text = (index ? "" : "epoch ") + readable(tick);
    parts.push(`<text x="${x}" y="${bottom + 18}" text-anchor="middle">${text}</text>`);
  });
  return parts;
}

// A finger or a pressed button that moves sideways selects the epochs to zoom in on; without that the pointer
// reads values.
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

// With the focus on a chart, + and - zoom and arrows move.
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
