"use strict";
// Tables that sort, and that begin with their first rows.

const FIRST_ROWS = 30;

/** An element; what is not a node is written as text, whatever it holds. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/**
 * A table in `host`. A column is {label, cell, sort, number, span}: `cell` gives a row's text or
 * node, `sort` a number or text to sort by, `span` the heading that it shares with its neighbours.
 */
class Table {
  constructor(host, caption) {
    this.host = host;
    this.caption = caption;
    this.order = { label: null, sign: 1 };
    this.whole = false;
  }

  show(columns, rows, empty) {
    Object.assign(this, { columns, rows });
    if (rows.length === 0) {
      this.host.replaceChildren(element("p", { class: "note" }, empty));
      return;
    }
    this.body = element("tbody");
    const table = element(
      "table",
      {},
      element("caption", { class: "unseen" }, this.caption),
      this.head(),
      this.body,
    );
    const region = { class: "scroll", tabindex: 0, role: "region", "aria-label": this.caption };
    this.more = element("button", { type: "button", class: "more" });
    this.more.addEventListener("click", () => this.showAll());
    this.host.replaceChildren(element("div", region, table), this.more);
    this.fill();
  }

  head() {
    const spans = this.columns.some((column) => column.span);
    const upper = element("tr");
    const lower = element("tr");
    this.heads = new Map();
    this.columns.forEach((column, place) => {
      const cell = this.headCell(column);
      const first = this.columns[place - 1]?.span !== column.span;
      if (!column.span && spans) cell.setAttribute("rowspan", 2);
      if (column.span && first) {
        const wide = this.columns.filter((other) => other.span === column.span).length;
        upper.append(
          element("th", { scope: "colgroup", colspan: wide, class: "span" }, column.span),
        );
      }
      (column.span || !spans ? lower : upper).append(cell);
    });
    return element("thead", {}, ...(spans ? [upper, lower] : [lower]));
  }

  headCell(column) {
    const key = this.key(column);
    const button = element("button", { type: "button" }, column.label);
    button.addEventListener("click", () => {
      this.order = { key, sign: this.order.key === key ? -this.order.sign : 1 };
      this.fill();
    });
    const cell = element("th", { scope: "col", class: column.number && "number" }, button);
    this.heads.set(key, cell);
    return cell;
  }

  key(column) {
    return `${column.span ?? ""} ${column.label}`;
  }

  fill() {
    const column = this.columns.find((one) => this.key(one) === this.order.key);
    for (const [key, cell] of this.heads) {
      const sorted = column && key === this.order.key;
      if (sorted) cell.setAttribute("aria-sort", this.order.sign > 0 ? "ascending" : "descending");
      else cell.removeAttribute("aria-sort");
    }
    const rows = column ? [...this.rows].sort((a, b) => this.compare(column, a, b)) : this.rows;
    const shown = this.whole ? rows : rows.slice(0, FIRST_ROWS);
    this.body.replaceChildren(...shown.map((row) => this.row(row)));
    this.more.hidden = shown.length === rows.length;
    this.more.textContent = `Show all ${plural(rows.length, "row")}`;
  }

  compare(column, one, other) {
    const [a, b] = [column.sort(one), column.sort(other)];
    if (a === null || b === null) return (a === null) - (b === null); // dashes come last
    return this.order.sign * (a < b ? -1 : a > b ? 1 : 0);
  }

  row(row) {
    const cells = this.columns.map((column, place) => {
      const attributes = { class: column.number && "number" };
      return place === 0
        ? element("th", { scope: "row" }, column.cell(row))
        : element("td", attributes, column.cell(row));
    });
    return element("tr", {}, ...cells);
  }

  showAll() {
    const before = this.body.rows.length;
    this.whole = true;
    this.fill();
    const next = this.body.rows[before];
    next?.setAttribute("tabindex", "-1");
    next?.focus(); // the button is gone; reading goes on with the first new row
  }
}
