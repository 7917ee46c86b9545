// The rows of a gallery: sorted by name or by what was measured, filtered by name.

const HIGHER_IS_BETTER = JSON.parse(document.body.dataset.higherIsBetter ?? "{}");
const METRIC = "metric:"; // in the values of the sort field, before the metric's name

function startGallery() {
  const main = find("#content");
  const rows = readRows(main);
  const lightbox = makeLightbox();
  const controls = makeControls([...new Set(rows.flatMap((row) => [...row.measured.keys()]))], arrange);
  let order = rows;
  find("body > header").append(controls.bar);
  arrange();
  addCompareButtons(rows, lightbox);
  keepEstimate(main);
  onGalleryKeys(controls, lightbox);

  function arrange() {
    const { text } = controls.state;
    const wanted = text.toLowerCase().trim();
    const before = order;
    order = sortRows(rows, controls.state);
    for (const row of order) {
      const hidden = !row.name.toLowerCase().includes(wanted);
      if (row.element.hidden !== hidden) row.element.hidden = hidden;
    }
    // Moving thousands of rows takes a moment: only where their order changes.
    if (order.some((row, index) => before[index] !== row)) main.append(...order.map((row) => row.element));
    find("#status").textContent = describe(order, metricOf(controls.state));
  }
}

function readRows(main) {
  return findAll(".sample", main).map((element, place) => {
    const values = Object.entries(JSON.parse(element.dataset.measured ?? "{}"));
    // What JSON has no numbers for comes as a string: "Infinity", "NaN".
    const measured = new Map(values.map(([metric, value]) => [metric, Number(value)]));
    const pictures = element.querySelectorAll("a.picture").length;
    return { element, place, name: find("h2", element).textContent, measured, pictures };
  });
}

function metricOf({ sort }) {
  return sort.startsWith(METRIC) ? sort.slice(METRIC.length) : null;
}

function describe(rows, metric) {
  const shown = rows.filter((row) => !row.element.hidden);
  const pictures = shown.reduce((sum, row) => sum + row.pictures, 0);
  const part = shown.length < rows.length ? `${shown.length.toLocaleString("en")} of ` : "";
  const texts = [part + counted(rows.length, "sample"), counted(pictures, "picture")];
  const values = shown.map((row) => row.measured.get(metric)).filter(Number.isFinite);
  if (values.length) texts.push(`mean ${metric} ${readable(values.reduce((a, b) => a + b) / values.length)}`);
  return texts.join(" · ");
}

// Sorting -----------------------------------------------------------------------------------------

function sortRows(rows, state) {
  const sign = state.reversed ? -1 : 1;
  const metric = metricOf(state);
  if (metric !== null) {
    // A metric's worst values come first; of one that nobody knows, the lowest.
    const upwards = HIGHER_IS_BETTER[metric] === false ? -sign : sign;
    return rows.toSorted((row, other) => compareValues(row, other, metric, upwards));
  }
  const { compare } = new Intl.Collator("en", { numeric: true });
  const bySort = state.sort === "name" ? (row, other) => compare(row.name, other.name) : () => 0;
  return rows.toSorted((row, other) => sign * (bySort(row, other) || row.place - other.place));
}

// Rows without a value, or with one that is no number, come last in both directions.
function compareValues(row, other, metric, sign) {
  const [a, b] = [row.measured.get(metric) ?? NaN, other.measured.get(metric) ?? NaN];
  const missing = Number.isNaN(a) - Number.isNaN(b);
  if (missing) return missing;
  return a === b || Number.isNaN(a) ? row.place - other.place : sign * (a < b ? -1 : 1);
}

function directionName({ sort, reversed }) {
  const metric = metricOf({ sort });
  if (metric === null) return reversed ? "last first" : "first first";
  if (metric in HIGHER_IS_BETTER) return reversed ? "best first" : "worst first";
  return reversed ? "highest first" : "lowest first";
}

// Controls ----------------------------------------------------------------------------------------

// The state outlives a reload: { sort: "", "name" or "metric:NAME", reversed, text }.
function makeControls(metrics, changed) {
  const state = { sort: "", reversed: false, text: "", ...recall("arrangement") };
  const options = [["", "order of the files"], ["name", "name"], ...metrics.map((metric) => [METRIC + metric, metric])];
  if (!options.some(([value]) => value === state.sort)) state.sort = "";

  const filter = make("input", { type: "search", placeholder: "Filter by name", "aria-label": "Filter by name", title: "Filter by name (/)" });
  const sort = make("select", { "aria-label": "Sort by", title: "Sort by" });
  sort.append(...options.map(([value, text]) => make("option", { value }, text)));
  const direction = make("button", { type: "button", title: "Turn the order round (R)" });
  const bar = make("div", { class: "controls", role: "search" }, filter, make("label", {}, "Sort by ", sort), direction);

  function set(changes) {
    Object.assign(state, changes);
    remember("arrangement", state);
    write();
    changed();
  }

  function write() {
    filter.value = state.text;
    sort.value = state.sort;
    direction.textContent = directionName(state);
  }

  // Best or worst first, by the metric that is chosen or else the first one.
  function setEnd(reversed) {
    if (metrics.length) set({ sort: metricOf(state) === null ? METRIC + metrics[0] : state.sort, reversed });
  }

  filter.addEventListener("input", () => set({ text: filter.value }));
  filter.addEventListener("keydown", (event) => event.key === "Enter" && filter.blur());
  sort.addEventListener("change", () => set({ sort: sort.value, reversed: false }));
  direction.addEventListener("click", () => set({ reversed: !state.reversed }));
  write();
  return { bar, state, filter, set, setEnd };
}

function addCompareButtons(rows, lightbox) {
  for (const { element, name, pictures } of rows) {
    if (pictures < 2) continue;
    const label = `Compare two pictures of ${name} (C)`;
    element.append(make("button", { type: "button", class: "compare", "aria-label": label, title: label }, "Compare"));
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".compare");
    if (button) lightbox.open(find("a.picture", button.parentElement), true);
  });
}

function onGalleryKeys(controls, lightbox) {
  const actions = {
    "/": () => controls.filter.focus(),
    r: () => controls.set({ reversed: !controls.state.reversed }),
    w: () => controls.setEnd(false),
    b: () => controls.setEnd(true),
    c: () => {
      const row = document.activeElement.closest(".sample") ?? find(".sample:not([hidden])");
      if (row && find(".compare", row)) lightbox.open(find("a.picture", row), true);
    },
  };
  document.addEventListener("keydown", (event) => {
    if (lightbox.dialog.open || !isForPage(event) || !Object.hasOwn(actions, event.key)) return;
    event.preventDefault();
    actions[event.key]();
  });
}

// Rows out of sight are not laid out; they are taken to be as high as those in sight, so that the scroll
// bar hardly moves when they come.
function keepEstimate(main) {
  const update = () => {
    const row = find(".sample:not([hidden])", main);
    if (row) main.style.setProperty("--row-height", `${Math.round(row.getBoundingClientRect().height)}px`);
  };
  new ResizeObserver(update).observe(main);
  update();
}

startGallery();
