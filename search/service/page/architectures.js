/* The architectures of a search as a table, and the profile of one of them. */

import { architecturePath, download, get, openRun } from "./api.js";
import { Table, action, gainText, el, percent, scoreText, short } from "./elements.js";
import { colourOf, markOf } from "./plot.js";

const FILES = [
  ["folder", "Folder", "weights and architecture, for copycat.load"],
  ["onnx", "ONNX", "one ONNX file"],
  ["python", "Python", "a module that needs torch alone"],
];

export class ArchitectureTable {
  constructor({ id, score, choose, fail }) {
    Object.assign(this, { id, choose, fail, items: [] });
    const columns = [
      { title: "architecture", node: (item) => this.name(item) },
      { title: "front", text: (item) => (item.on_front ? "yes" : "") },
      { title: "FLOPs", number: true, text: (item) => short(item.flops) },
      { title: "of base", number: true, text: (item) => percent(item.flops_share) },
      { title: "params", number: true, text: (item) => short(item.params) },
      { title: "slack", number: true, text: slack },
      { title: () => `validation ${score.name}`, number: true, text: (item) => scoreText(score, item.validation_score) },
      { title: () => `test ${score.name}`, number: true, text: (item) => scoreText(score, item.test_score) },
      { title: "against base", number: true, text: (item) => (item.origin === "base" ? "–" : gainText(score, item.score_against_base)) },
      { title: "open or save", node: (item) => this.links(item) },
    ];
    this.table = new Table("Every architecture by FLOPs, the base network first", columns, {
      empty: "None so far.",
      key: (item) => item.key,
      rowClass: (item) => [item.on_front && "on-front", item.key === this.chosen && "chosen"].filter(Boolean).join(" "),
    });
    this.only = el("input", { type: "checkbox", change: () => this.show(this.items) });
    this.node = el("div", {}, el("label", { class: "inline" }, this.only, " only the front"), this.table.node);
  }

  show(items) {
    this.items = items;
    this.table.show(this.only.checked ? items.filter((item) => item.on_front || item.origin === "base") : items);
  }

  mark(key) {
    this.chosen = key;
    this.show(this.items);
  }

  name(item) {
    const mark = el("span", { class: "mark", "aria-hidden": "true" }, markOf(item.origin));
    mark.style.color = colourOf(item.origin);
    const title = `Profile of ${item.key}, ${item.origin}`;
    const button = el("button", { type: "button", class: "name", title, click: () => this.choose(item.key) }, item.key);
    return el("span", {}, mark, button);
  }

  links(item) {
    const files = FILES.map(([part, text, what]) => {
      const path = architecturePath(item.id, part);
      return action(text, `${text} of ${item.key}: ${what}`, path, () => download(path), this.fail);
    });
    return el("span", { class: "links" }, runLink(item, "MLflow", this.fail), files);
  }
}

function slack(item) {
  const parts = Object.entries(item.slack);
  const signed = (share) => (share >= 0 ? `+${percent(share, 1)}` : "over");
  if (parts.length === 1) return signed(parts[0][1]);
  return parts.map(([name, share]) => `${name.replaceAll("_", " ")} ${signed(share)}`).join(", ");
}

function runLink(item, text, fail) {
  const path = architecturePath(item.id, "run");
  return action(text, `Run of ${item.key} in MLflow, opens a new tab`, path, () => openRun(item.id), fail);
}

/* Beside the plot: the channels per group of the architecture that is looked at. */
export class ProfileCard {
  constructor({ id, score, fail }) {
    Object.assign(this, { id, score, fail, known: new Map(), key: "" });
    this.node = el("aside", { class: "card", "aria-live": "polite", "aria-label": "Profile" },
      el("p", { class: "quiet" }, "Point at an architecture in the plot, or choose one in the table, to see its profile."));
  }

  async show(item) {
    if (item.key === this.key) return;
    this.key = item.key;
    this.fill(item, this.known.get(item.key));
    if (this.known.has(item.key)) return;
    try {
      this.known.set(item.key, await get(`/v1/architectures/${encodeURIComponent(item.id)}`));
    } catch (error) {
      this.fail(error);
      return;
    }
    if (this.key === item.key) this.fill(item, this.known.get(item.key));
  }

  fill(item, details) {
    const parts = [
      el("h3", {}, item.key),
      el("p", { class: "quiet" }, `${item.origin}, ${short(item.flops)} FLOPs, ${scoreText(this.score, item.validation_score)}`),
      details ? bars(details.widths) : el("p", { class: "quiet" }, "Loading its profile …"),
      details?.removed.length ? el("p", {}, without(details.removed)) : null,
      details?.file.inexact ? el("p", {}, `narrowed inexactly: ${Object.keys(details.file.inexact).join(", ")}`) : null,
      el("p", {}, runLink(item, "Its run in MLflow", this.fail)),
    ];
    this.node.replaceChildren(...parts.filter(Boolean));
  }
}

function without(removed) {
  return `without ${removed.map(({ kind, name }) => `${kind} ${name}`).join(", ")}`;
}

function bars(widths) {
  const groups = Object.entries(widths);
  if (!groups.length) return el("p", {}, "with all channels of the base network");
  const most = Math.max(...groups.map(([, width]) => width));
  const caption = el("caption", {}, "channels per group");
  const rows = groups.map(([name, width]) => {
    const bar = el("span", { class: "width" });
    bar.style.width = `${(100 * width) / most}%`;
    return el("tr", {}, el("th", { scope: "row" }, name), el("td", { class: "track" }, bar), el("td", { class: "number" }, String(width)));
  });
  return el("div", { class: "profile", role: "region", "aria-label": "Profile", tabindex: 0 },
    el("table", {}, caption, el("tbody", {}, rows)));
}
