// Thousands of rows are divided into chunks, and only chunks near the window have their rows in the document:
// with all rows in it each step of scrolling would take a second.

const CHUNK_ROWS = 60; // fills whole lines of one to six rows
const NEAR = "1500px";

// Returns functions that show rows in `main` and bring one into the document. `prepare` is called with a row
// before it is shown for the first time.
function makeChunks(main, prepare) {
  const rowsOf = new Map();
  const prepared = new Set();
  const observer = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) (isIntersecting ? mount : unmount)(target);
    },
    { rootMargin: NEAR },
  );
  main.classList.add("chunked");
  let width = 0;
  new ResizeObserver(() => {
    if (main.clientWidth !== width) estimate();
    width = main.clientWidth;
  }).observe(main);
  return { show, reveal };

  function show(rows) {
    observer.disconnect();
    rowsOf.clear();
    for (let index = 0; index < rows.length; index += CHUNK_ROWS) {
      rowsOf.set(make("div", { class: "chunk" }), rows.slice(index, index + CHUNK_ROWS));
    }
    const chunks = [...rowsOf.keys()];
    main.replaceChildren(...chunks);
    if (chunks.length) mount(chunks[0]);
    estimate();
    for (const chunk of chunks) observer.observe(chunk);
  }

  function mount(chunk) {
    const rows = rowsOf.get(chunk);
    if (!rows || chunk.firstChild) return;
    for (const row of rows) {
      if (!prepared.has(row)) prepare(row);
      prepared.add(row);
    }
    chunk.append(...rows.map((row) => row.element));
    chunk.style.height = "";
  }

  function unmount(chunk) {
    if (!chunk.firstChild || chunk.contains(document.activeElement)) return;
    chunk.style.height = `${chunk.offsetHeight}px`;
    chunk.replaceChildren();
  }

  // Gives chunks without their rows the height of one that has them.
  function estimate() {
    const known = [...rowsOf.keys()].find((chunk) => chunk.firstChild);
    if (!known) return;
    const columns = getComputedStyle(known).gridTemplateColumns.split(" ").length;
    const lines = (chunk) => Math.ceil(rowsOf.get(chunk).length / columns);
    const lineHeight = known.offsetHeight / lines(known);
    for (const chunk of rowsOf.keys()) {
      if (!chunk.firstChild) chunk.style.height = `${Math.round(lines(chunk) * lineHeight)}px`;
    }
  }

  // Brings the row of an element into the document.
  function reveal(element) {
    const row = element.closest(".sample");
    for (const [chunk, rows] of rowsOf) {
      if (rows.some((other) => other.element === row)) mount(chunk);
    }
  }
}
