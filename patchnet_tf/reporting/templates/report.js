// Turns the headings of tables with class="sortable" into buttons that sort the rows, and lets people choose
// the class whose maps are shown.
"use strict";
for (const chooser of document.querySelectorAll(".chooser")) {
  chooser.hidden = false;
  const select = chooser.querySelector("select");
  const show = () => {
    for (const map of document.querySelectorAll(".map")) {
      const own = select.value === "own" && "own" in map.dataset;
      map.hidden = !(own || select.value === "all" || select.value === map.dataset.class);
    }
  };
  select.addEventListener("change", show);
  show();
}
document.querySelectorAll(".sorting").forEach((hint) => { hint.hidden = false; });
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  // A cell's data-value is a number; without one it is undefined, and stays below in both directions.
  const value = (row, column, numeric) => {
    const cell = row.cells[column];
    return numeric ? Number.parseFloat(cell.dataset.value) : cell.textContent.trim();
  };
  table.querySelectorAll("th[data-column]").forEach((heading) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const descending = heading.getAttribute("aria-sort") === "ascending";
      const column = Number(heading.dataset.column);
      const numeric = "numeric" in heading.dataset;
      const sign = descending ? -1 : 1;
      const compare = (a, b) => {
        const [x, y] = [value(a, column, numeric), value(b, column, numeric)];
        if (!numeric) return sign * x.localeCompare(y, undefined, { numeric: true });
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
        return sign * (x - y);
      };
      body.append(...[...body.rows].sort(compare));
      table.querySelectorAll("[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    });
  });
}
