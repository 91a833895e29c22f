/* One search, live: how it stands, its Pareto plot, architectures, trials and verdict; of another study its results. */

import { Events, OVER, address, download, get, getAll, openRun, pause, request, searchPath, token } from "./api.js";
import { ArchitectureTable, ProfileCard } from "./architectures.js";
import { confirmed, el, moment, progressOf, say, short, stateOf, subjectOf, sync } from "./elements.js";
import { Log } from "./log.js";
import { FrontPlot, colourOf, markOf } from "./plot.js";
import { StudyResults } from "./results.js";
import { Trials } from "./trials.js";

const POLL_MS = 3000;

export async function showSearch(page) {
  document.title = `${page.id} – Espalier`;
  await new SearchView(page).run();
}

class SearchView {
  constructor({ root, id, signal, fail, works }) {
    Object.assign(this, { id, signal, works, path: searchPath(id), shown: "", told: "", isFollowing: false });
    this.fail = (error) => { if (!signal.aborted) fail(error); };
    this.events = new Events(id);
    this.score = { name: "score", is_share: true }; // until the search says which
    const { score } = this;
    this.trials = new Trials({ path: this.path, score, fail: this.fail, signal });
    this.results = new StudyResults({ score });
    this.log = new Log({ path: `${this.path}/log`, fail: this.fail });
    const openOne = (key) => openRun(`${id}:${key}`).catch(this.fail);
    const choose = (key) => this.choose(key);
    this.plot = new FrontPlot({ score, choose, open: openOne, signal });
    this.table = new ArchitectureTable({ id, score, choose, fail: this.fail });
    this.card = new ProfileCard({ id, score, fail: this.fail });
    root.append(...this.parts());
  }

  parts() {
    this.state = el("span", { class: "state", role: "status" });
    this.facts = el("p", { class: "quiet" });
    this.reason = el("p", { class: "error" });
    this.take = el("div", { class: "take", hidden: true, role: "region", "aria-label": "What to take" });
    this.buttons = el("div", { class: "buttons" });
    this.priority = el("input", { type: "number", min: -1000, max: 1000, step: 1, change: () => this.setPriority() });
    this.queue = el("label", { class: "inline", hidden: true }, "Priority ", this.priority);
    this.bar = el("progress", { max: 1, value: 0, "aria-label": `Progress of ${this.id}` });
    this.progress = el("p", { class: "progress-line" });
    this.working = el("ul", { class: "working", "aria-label": "In training" });
    this.legend = el("ul", { class: "legend", "aria-label": "Origins" });
    this.convention = el("p", { class: "quiet" });
    this.verdict = el("div", { class: "verdict" });
    this.settings = el("pre", { tabindex: 0 });
    /* Parts that mean something for these kinds of study alone. */
    this.only = [
      [["search", "family"], el("section", {}, el("h2", {}, "Pareto front"), this.legend,
        el("div", { class: "beside" }, this.plot.node, this.card.node), this.convention)],
      [["search"], el("section", {}, el("h2", {}, "Verdict"), this.verdict)],
      [["family", "correlation"], el("section", { hidden: true }, el("h2", {}, "Results"), this.results.node)],
      [["search"], el("section", {}, el("h2", {}, "Trials"), this.trials.node)],
    ];
    const [front, verdict, results, trials] = this.only.map(([, node]) => node);
    return [
      el("div", { class: "title" }, el("h1", {}, this.id), this.state, this.buttons),
      this.take, this.queue, this.facts, this.reason, this.bar, this.progress, this.working,
      front, verdict, results,
      el("h2", {}, "Architectures"), this.table.node,
      trials,
      this.log.node,
      el("details", {}, el("summary", {}, "All settings"), this.settings),
      el("p", {}, el("a", { class: "button", href: `#/launch?like=${encodeURIComponent(this.id)}` }, "Launch another like it")),
    ];
  }

  async run() {
    while (!this.signal.aborted) {
      await this.refresh();
      if (this.isGone) return;
      await pause(POLL_MS, this.signal);
    }
  }

  async refresh() {
    try {
      const search = await get(this.path, this.signal);
      this.showStanding(search);
      await this.showFound(search);
      this.follow(search.state);
      this.log.refresh();
      this.works();
    } catch (error) {
      this.isGone = error.status === 404;
      this.fail(error);
    }
  }

  /* Those of one that is over are told to the end as well: the trials come from there. */
  follow(state) {
    if (this.isFollowing || (OVER.includes(state) && this.told === state)) return;
    this.isFollowing = true;
    const take = (type, data) => {
      if (type === "state") this.showState(data);
      this.trials.take(type, data);
    };
    this.events.follow(take, this.signal)
      .catch(this.fail)
      .finally(() => { this.isFollowing = false; this.told = this.state.dataset.state; });
  }

  showState(search) {
    Object.assign(this.score, search.score);
    for (const [kinds, node] of this.only) node.hidden = !kinds.includes(search.kind);
    say(this.state, stateOf(search));
    this.state.dataset.state = search.state;
    this.showButtons(search);
    this.queue.hidden = search.state !== "queued";
    if (document.activeElement !== this.priority) this.priority.value = search.priority;
  }

  showStanding(search) {
    this.showState(search);
    const limits = Object.entries(search.limits).map(([name, limit]) => `${name.replaceAll("_", " ")} ≤ ${short(limit)}`);
    const base = search.base ? `, from ${short(search.base.flops)} FLOPs and ${short(search.base.params)} params` : "";
    const owner = search.owner ? `, by ${search.owner}` : "";
    const within = limits.length ? `, within ${limits.join(", ")}` : "";
    say(this.facts, `${subjectOf(search)}${within}${base}. Launched ${moment(search.created_ms)}${owner}.`);
    say(this.reason, search.reason);
    const { share, ...texts } = progressOf(search);
    this.bar.value = share;
    say(this.progress, Object.values(texts).filter(Boolean).join(" · ") || "Nothing trained so far.");
    this.working.hidden = OVER.includes(search.state);
    sync(this.working, search.progress?.running ?? [], {
      key: (work) => work.key,
      make: () => el("li"),
      update: (item, work) => say(item, `${work.key}: ${work.stage}, ${work.step} of ${work.num_steps} epochs`),
    });
    say(this.settings, JSON.stringify(search.settings, null, 2));
  }

  showButtons(search) {
    const wanted = [];
    if (!OVER.includes(search.state) && !search.is_stopping) wanted.push(["Stop", () => this.change("POST", "/stop")]);
    if (search.is_stopping) wanted.push(["Go on", () => this.change("DELETE", "/stop")]);
    if (["stopped", "failed"].includes(search.state)) wanted.push(["Resume", () => this.change("POST", "/resume")]);
    if (search.state !== "running") wanted.push(["Remove", () => this.remove()]);
    sync(this.buttons, wanted, {
      key: ([text]) => text,
      make: ([text, click]) => el("button", { type: "button", class: text === "Remove" && "danger", click }, text),
      update: () => {},
    });
  }

  /* An admin's to decide: others are told so. */
  setPriority() {
    const body = JSON.stringify({ priority: this.priority.valueAsNumber });
    this.change("PUT", "/priority", { body, headers: { "Content-Type": "application/json" } });
  }

  async change(method, part, content = {}) {
    try {
      await request(this.path + part, { method, ...content });
      await this.refresh();
    } catch (error) {
      this.fail(error);
    }
  }

  async remove() {
    const text = `Remove ${this.id} with all its architectures? Its runs in MLflow stay.`;
    if (!(await confirmed(text, "Remove"))) return;
    try {
      await request(this.path, { method: "DELETE" });
      location.hash = "#/";
    } catch (error) {
      this.fail(error);
    }
  }

  /* Asked for only when there is something new. */
  async showFound(search) {
    const version = `${search.state} ${search.progress?.networks ?? 0}`;
    if (version === this.shown) return;
    const found = await getAll(`${this.path}/architectures`, this.signal);
    this.items = found.items;
    say(this.convention, `FLOPs: ${found.convention}. ${search.limits.flops ? "Dotted: the budget. " : ""}Line: the front.`);
    this.table.show(this.items);
    this.showLegend();
    if (search.kind !== "correlation") this.plot.show(this.items, search.limits).catch(this.fail);
    await (search.kind === "search" ? this.showVerdict(search.state) : this.showResults(search));
    this.shown = version;
  }

  showLegend() {
    const origins = Object.entries(Object.groupBy(this.items, (item) => item.origin));
    sync(this.legend, origins, {
      key: ([origin]) => origin,
      make: ([origin]) => {
        const mark = el("span", { class: "mark", "aria-hidden": "true" }, markOf(origin));
        mark.style.color = colourOf(origin);
        return el("li", {}, mark, el("span"));
      },
      update: (item, [origin, same]) => say(item.lastElementChild, `${origin} (${same.length})`),
    });
  }

  choose(key) {
    const item = this.items.find((found) => found.key === key);
    if (!item) return;
    this.card.show(item);
    this.table.mark(key);
    if (!this.plot.node.closest("section").hidden) this.plot.ring(key).catch(this.fail);
  }

  async showVerdict(state) {
    this.take.hidden = state !== "finished";
    if (state !== "finished") {
      const text = OVER.includes(state) ? `The search ${state === "failed" ? "failed" : "was stopped"}: there is none.` : "It comes when the search is finished.";
      this.verdict.replaceChildren(el("p", { class: "quiet" }, text));
      return;
    }
    const { recommendations, basis, lines, notes } = await get(`${this.path}/verdict`, this.signal);
    const texts = recommendations.map(({ text }) => text);
    this.take.replaceChildren(...texts.map((text) => el("p", {}, text)), el("p", { class: "quiet" }, basis));
    const compared = lines.filter((line) => !texts.includes(line));
    this.verdict.replaceChildren(
      el("details", {}, el("summary", {}, "How they compare, and by which test"), el("ul", {}, compared.map((line) => el("li", {}, line)))),
      ...notes.map((note) => el("p", { class: "quiet" }, note)),
      el("p", {}, this.opened("report", "The whole report")),
    );
  }

  async showResults({ kind, state }) {
    if (state !== "finished") {
      this.results.say(OVER.includes(state) ? "There are none." : "They come when the study is finished.");
      return;
    }
    const content = await get(`${this.path}/results`, this.signal);
    this.results.show(kind, content, [this.opened("figure", "The figure"), " · ", this.opened("report", "The whole report")]);
  }

  /* A page of its own; with a token, which a link cannot send, a file that is saved. */
  opened(part, text) {
    const href = `${this.path}/${part}`;
    const click = (event) => {
      if (!token.get()) return;
      event.preventDefault();
      download(href).catch(this.fail);
    };
    return el("a", { href: address(href), target: "_blank", rel: "noopener", click }, text);
  }
}
