// Runs side by side: charts, images that open as in a gallery, tables that are sorted by their columns.

const OPEN_CHARTS = 6; // further charts of a section are folded in

const lightbox = makeLightbox(() => findAll("a.image"), () => {});
lightbox.openAddressed();
onEscape(lightbox.dialog);
const sections = findAll("script.curves").map((element) => {
  return { section: element.parentElement, ...JSON.parse(element.textContent) };
});
const ends = sections.flatMap(({ charts }) => charts.map((chart) => chart.end));
const whole = [0, Math.max(1e-3, ...ends)];
for (const { section, groups, charts } of sections) addCharts(section, groups, charts);
for (const swatch of findAll(".swatch[data-group]")) {
  swatch.replaceWith(makeSwatch(groupStyle(swatch.dataset.group)));
}

// One legend for all charts of a section, then a chart for each name.
function addCharts(section, groups, charts) {
  const display = makeDisplay(section.id, false);
  const entries = groups.map((name, index) => makeCurve(name, index, { thin: [], thick: [], dots: [] }));
  const open = make("div", { class: "charts" });
  section.append(makeLegend(display, entries), open);
  let place = open;
  charts.forEach((chart, index) => {
    if (index === OPEN_CHARTS) {
      place = make("div", { class: "charts" });
      const text = counted(charts.length - OPEN_CHARTS, "more chart");
      section.append(make("details", { class: "further" }, make("summary", {}, text), place));
    }
    const figure = make("figure", {}, make("figcaption", {}, chart.name + arrow(chart.name)));
    place.append(figure);
    addChart(figure, chart, groups, display);
  });
  const note = "Thin: a run. Thick: the mean of a group's runs, as far as all have got.";
  section.append(make("p", { class: "note" }, note));
}

function addChart(figure, { name, end, count, runs }, groups, display) {
  const positions = Array.from({ length: count }, (_, index) => ((index + 1) * end) / count);
  const curves = Object.entries(runs).map(([group, thin]) => {
    const thick = meanOf(thin, count);
    return makeCurve(groups[group], Number(group), { thin, thick, dots: thick });
  });
  const readout = (index, shown) =>
    makeReadout([`epoch ${readable(positions[index])}`, "mean"], shown, ({ thick }) => [readable(thick[index])]);
  makeChart(figure, { positions, curves, whole, label: name, display, readout });
}

// The mean of the runs' values, null where any run has none.
function meanOf(runs, count) {
  return Array.from({ length: count }, (_, index) => {
    const values = runs.map((run) => run[index]);
    return values.includes(null) ? null : values.reduce((a, b) => a + b) / values.length;
  });
}

function groupStyle(group) {
  return makeCurve("", Number(group), { thin: [], thick: [], dots: [] }).style;
}

// A click on the head of a column sorts the table by it; another click reverses the order.
for (const table of findAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  for (const [column, head] of heads.entries()) {
    head.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((one, other) => compareCells(one.cells[column], other.cells[column]));
      table.tBodies[0].append(...(descending ? rows.reverse() : rows));
    });
  }
}

function compareCells(one, other) {
  const [a, b] = [one.dataset.value, other.dataset.value];
  if (a === "" || b === "") return (a === "") - (b === "");
  const [x, y] = [a, b].map((value) => Number(value.replace("inf", "Infinity")));
  return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y;
}
