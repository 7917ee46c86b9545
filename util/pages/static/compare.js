// Runs side by side: pictures open as in a gallery, tables are sorted by their columns.

makeLightbox(() => findAll("a.picture"), () => {}).openAddressed();

// A click on the head of a column sorts the table by it; another one turns the order round.
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
