/* Making and updating parts of the page. Text only ever becomes text nodes, never markup. */

import { address } from "./api.js";

/* An element; functions among the attributes listen to the event of that name. */
export function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(key, value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value != null) node.setAttribute(key, value);
  }
  node.append(...children.flat().filter((child) => child != null));
  return node;
}

/* Changes a text only where it differs, so that nothing is announced or selected anew. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/* A box that scrolls sideways by itself, with the keyboard too. */
export function scrolling(label, ...children) {
  return el("div", { class: "scroll", role: "region", "aria-label": label, tabindex: 0 }, children);
}

/* Lets `parent` have one child per item, in order; children that stay keep focus and listeners. */
export function sync(parent, items, { key, make, update }) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let next = parent.firstElementChild;
  for (const item of items) {
    let child = known.get(key(item));
    if (!child) {
      child = make(item);
      child.dataset.key = key(item);
    }
    known.delete(key(item));
    update(child, item);
    if (child === next) next = next.nextElementSibling;
    else parent.insertBefore(child, next);
  }
  for (const child of known.values()) child.remove();
}

const titleOf = ({ title }) => (typeof title === "function" ? title() : title);

/* A table of columns {title, number, text(item)} or {title, node(item)}; nodes are made once.
   A title that is not known from the beginning is a function. */
export class Table {
  constructor(caption, columns, { empty, key, rowClass = () => "" }) {
    Object.assign(this, { columns, key, rowClass });
    this.heads = columns.map((c) => el("th", { scope: "col", class: c.number && "number" }, titleOf(c)));
    this.body = el("tbody");
    this.empty = el("p", { class: "quiet" }, empty);
    this.table = el("table", {}, el("caption", {}, caption), el("thead", {}, el("tr", {}, this.heads)), this.body);
    this.node = el("div", {}, scrolling(caption, this.table), this.empty);
  }

  show(items) {
    this.columns.forEach((column, i) => say(this.heads[i], titleOf(column)));
    this.empty.hidden = items.length > 0;
    this.node.firstElementChild.hidden = items.length === 0;
    sync(this.body, items, {
      key: this.key,
      make: (item) => el("tr", {}, this.columns.map((column, i) => this.cell(column, item, i === 0))),
      update: (row, item) => {
        row.className = this.rowClass(item);
        this.columns.forEach((column, i) => {
          if (column.text) say(row.cells[i], column.text(item));
          column.update?.(row.cells[i].firstElementChild, item);
        });
      },
    });
  }

  cell(column, item, isHead) {
    const attributes = { class: column.number ? "number" : column.wide && "wide" };
    const content = column.node ? column.node(item) : null;
    return el(isHead ? "th" : "td", isHead ? { ...attributes, scope: "row" } : attributes, content);
  }
}

/* A link that does something else when clicked; what went wrong goes to `fail`. */
export function action(text, label, href, act, fail) {
  const click = async (event) => {
    event.preventDefault();
    if (link.getAttribute("aria-busy")) return;
    link.setAttribute("aria-busy", "true");
    await act().catch(fail);
    link.removeAttribute("aria-busy");
  };
  const link = el("a", { href: address(href), "aria-label": label, click }, text);
  return link;
}

/* Asks before something that cannot be undone; Escape and Cancel give false. */
export function confirmed(text, verb) {
  const dialog = document.getElementById("question");
  const [yes, no] = ["yes", "no"].map((name) => document.getElementById(`question-${name}`));
  document.getElementById("question-text").textContent = text;
  yes.textContent = verb;
  return new Promise((resolve) => {
    yes.onclick = () => dialog.close("yes");
    no.onclick = () => dialog.close("");
    dialog.oncancel = () => { dialog.returnValue = ""; };
    dialog.onclose = () => resolve(dialog.returnValue === "yes");
    dialog.returnValue = "";
    dialog.showModal();
    no.focus();
  });
}

const UNITS = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];

/* 239334 as 239k. */
export function short(count) {
  if (count == null) return "";
  const [size, unit] = UNITS.find(([least]) => count >= 0.9995 * least) ?? [1, ""];
  return Number((count / size).toPrecision(3)) + unit;
}

export function percent(share, digits = 2) {
  return share == null ? "" : `${(100 * share).toFixed(digits)}\u00a0%`;
}

/* A score as its kind (see the service's ScoreKind) is told: 98.61 %, or 0.01234 of what is no share. */
export function scoreText(kind, value, digits = 2) {
  if (value == null) return "";
  return kind.is_share ? percent(value, digits) : String(Number(value.toPrecision(digits + 2)));
}

/* A difference of scores, as −0.4 points. */
export function gainText(kind, gain) {
  if (gain == null) return "";
  const size = Math.abs(gain);
  const number = kind.is_share ? (100 * size).toFixed(1) : String(Number(size.toPrecision(3)));
  const text = `${number}${kind.is_share ? "\u00a0points" : ""}`;
  if (Number(number) === 0) return `±${text}`;
  /* where less is better a sign would be read the wrong way */
  if (kind.direction === "minimize") return `${text}\u00a0${gain < 0 ? "worse" : "better"}`;
  return `${gain < 0 ? "−" : "+"}${text}`;
}

export function duration(seconds) {
  if (seconds == null) return "";
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  if (seconds < 3600) return `${Math.ceil(seconds / 60)} min`;
  if (seconds < 48 * 3600) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.round(seconds / 86400)} days`;
}

export function moment(milliseconds) {
  const style = { dateStyle: "medium", timeStyle: "short" };
  return new Date(milliseconds).toLocaleString("en-GB", style);
}

/* How a search stands, in words. */
export function stateOf(search) {
  return search.is_stopping ? "stopping" : search.state;
}

/* What is studied; the kind of a study that is no search comes first. */
export function subjectOf(search) {
  const kind = search.kind === "search" ? "" : `${search.kind} study: `;
  return `${kind}${search.model || search.source} on ${search.data}`;
}

const named = ({ name }) => (name === "accuracy" ? "" : ` ${name}`);

/* Epochs done and expected, best network, cost and time left, as far as they are known. */
export function progressOf(search) {
  const {
    epochs = 0, expected_epochs: expected = 0, best, base, seconds_left: left, networks = 0,
    images = 0, seconds_spent: spent = 0,
  } = search.progress ?? {};
  return {
    // a search whose work is done has nothing left to expect
    share: search.state === "finished" ? 1 : expected ? epochs / expected : 0,
    epochs: expected ? `${epochs} of ${expected} epochs` : "",
    networks: networks ? `${networks} networks` : "",
    best: [
      best && `best ${scoreText(search.score, best.validation_score, 1)}${named(search.score)} at ${short(best.flops)} FLOPs`,
      base && `base ${scoreText(search.score, base.validation_score, 1)}`,
    ].filter(Boolean).join(", "),
    cost: images ? `${duration(spent)} and ${short(images)} images so far` : "",
    left: search.state === "running" && left != null ? `${duration(left)} left` : "",
  };
}
