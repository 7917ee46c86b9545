// The rows of a gallery: sorted by name or by a metric, filtered by name.

function startGallery() {
  const main = find("#content");
  const summary = find(".summary", main);
  if (summary) find(".about").prepend(summary);
  const rows = readRows(main);
  let shown = rows;
  const chunks = makeChunks(main, addCompareButton);
  const lightbox = makeLightbox(() => shown.flatMap((row) => imagesOf(row.element)), chunks.reveal);
  const metrics = [...new Set(rows.flatMap((row) => [...row.measured.keys()]))];
  const controls = makeControls(metrics, () => {
    arrange();
    scrollTo(0, 0);
  });
  find("body > header").append(controls.bar);
  arrange();
  lightbox.openAddressed();
  onGalleryKeys(controls, lightbox);

  function arrange() {
    const wanted = controls.state.text.toLowerCase().trim();
    shown = sortRows(rows, controls.state).filter((row) => row.name.toLowerCase().includes(wanted));
    chunks.show(shown);
    find("#status").textContent = describe(shown, rows.length, metricOf(controls.state));
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest(".compare");
    if (button) lightbox.open(find("a.image", button.parentElement), true);
  });
}

function readRows(main) {
  return findAll(".sample", main).map((element, place) => {
    const values = Object.entries(JSON.parse(element.dataset.measured ?? "{}"));
    // Values that are not finite are strings in JSON: "Infinity", "NaN".
    const measured = new Map(values.map(([metric, value]) => [metric, Number(value)]));
    const images = element.querySelectorAll("a.image").length;
    return { element, place, name: find("h2", element).textContent, measured, images };
  });
}

function describe(shown, count, metric) {
  const images = shown.reduce((sum, row) => sum + row.images, 0);
  const part = shown.length < count ? `${shown.length.toLocaleString("en")} of ` : "";
  const texts = [part + counted(count, "sample"), counted(images, "image")];
  const values = shown.map((row) => row.measured.get(metric)).filter(Number.isFinite);
  if (values.length) texts.push(`mean ${metric} ${readable(values.reduce((a, b) => a + b) / values.length)}`);
  return texts.join(" · ");
}

// Controls ----------------------------------------------------------------------------------------

// The state survives a reload: { sort: "", "name" or "metric:NAME", reversed, text }.
function makeControls(metrics, changed) {
  const state = { sort: "", reversed: false, text: "", ...recall("arrangement") };
  const byMetric = metrics.map((metric) => [METRIC + metric, metric]);
  const options = [["", "order of the files"], ["name", "name"], ...byMetric];
  if (!options.some(([value]) => value === state.sort)) state.sort = "";

  const names = { placeholder: "Filter by name", "aria-label": "Filter by name", title: "Filter by name (/)" };
  const filter = make("input", { type: "search", ...names });
  const sort = make("select", { "aria-label": "Sort by", title: "Sort by" });
  sort.append(...options.map(([value, text]) => make("option", { value }, text)));
  const direction = make("button", { type: "button", title: "Reverse the order (R)" });
  const label = make("label", {}, make("span", {}, "Sort by "), sort);
  const bar = make("div", { class: "controls", role: "search" }, filter, label, direction);

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

  // Worst or best first, by the chosen metric or else the first one.
  function sortByMetric(reversed) {
    if (metrics.length) set({ sort: metricOf(state) === null ? METRIC + metrics[0] : state.sort, reversed });
  }

  filter.addEventListener("input", () => set({ text: filter.value }));
  filter.addEventListener("keydown", (event) => event.key === "Enter" && filter.blur());
  sort.addEventListener("change", () => set({ sort: sort.value, reversed: false }));
  direction.addEventListener("click", () => set({ reversed: !state.reversed }));
  write();
  return { bar, state, filter, set, sortByMetric };
}

function addCompareButton({ element, name, images }) {
  if (images < 2) return;
  const label = `Compare two images of ${name} (C)`;
  const attributes = { type: "button", class: "compare", "aria-label": label, title: label };
  element.append(make("button", attributes, "Compare"));
}

function onGalleryKeys(controls, lightbox) {
  const actions = {
    "/": () => controls.filter.focus(),
    r: () => controls.set({ reversed: !controls.state.reversed }),
    w: () => controls.sortByMetric(false),
    b: () => controls.sortByMetric(true),
    c: () => {
      const row = document.activeElement.closest(".sample") ?? find(".sample");
      if (row && find(".compare", row)) lightbox.open(find("a.image", row), true);
    },
  };
  document.addEventListener("keydown", (event) => {
    if (lightbox.dialog.open || !isForPage(event) || !Object.hasOwn(actions, event.key)) return;
    event.preventDefault();
    actions[event.key]();
  });
}

startGallery();
