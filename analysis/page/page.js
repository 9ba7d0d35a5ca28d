"use strict";

// What a cell is sorted by: its first number, or its text.
function keyOf(text) {
  const number = /^[+-]?(\d+\.?\d*|\.\d+)/.exec(text.trim().replace("\u2212", "-"));
  return { text: text.trim(), number: number ? Number(number[0]) : null };
}

// The places of the cells in order; a column of numbers has those without a number last, whichever way it is sorted.
function orderOf(texts, down) {
  const keys = texts.map(keyOf);
  const numeric = keys.some((key) => key.number !== null) && keys.every((key) => key.number !== null || !/\d/.test(key.text));
  const blank = (key) => (numeric ? key.number === null : key.text === "");
  const compare = (one, other) => numeric ? one.number - other.number : one.text.localeCompare(other.text, "en", { numeric: true });
  return keys.map((_, place) => place).sort((a, b) => {
    const one = keys[a], other = keys[b];
    if (blank(one) || blank(other)) return blank(one) - blank(other) || a - b;
    return (down ? -1 : 1) * compare(one, other) || a - b;
  });
}

function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows];
    body.append(...orderOf(rows.map((row) => row.cells[column].textContent), down).map((place) => rows[place]));
  }));
}

// A choice of the lines with one value of the column that the table names, which is hidden then; at first its first.
function makeFilter(table) {
  const column = [...table.tHead.rows[0].cells].findIndex((head) => head.textContent.trim() === table.dataset.filter);
  const rows = [...table.tBodies[0].rows];
  const values = [...new Set(rows.map((row) => row.cells[column].textContent))];
  const label = document.createElement("label"), select = document.createElement("select");
  label.append(`${table.dataset.filter}:`, select);
  values.concat("all").forEach((value) => select.add(new Option(value)));
  const show = () => {
    rows.forEach((row) => {
      row.hidden = select.value !== "all" && row.cells[column].textContent !== select.value;
    });
    [table.tHead.rows[0], ...rows].forEach((row) => { row.cells[column].hidden = select.value !== "all"; });
  };
  select.addEventListener("change", show);
  table.parentElement.before(label);
  show();
}

if (typeof document !== "undefined") {
  document.querySelectorAll("table").forEach((table) => {
    makeSortable(table);
    makeFilter(table);
  });
}
