/* All searches, the newest first, kept up to date. */

import { get, pause } from "./api.js";
import { el, moment, progressOf, say, stateOf, subjectOf, sync } from "./elements.js";

const PER_PAGE = 20;
const POLL_MS = 3000;
/* By what the list can be narrowed. */
const FILTERS = {
  kind: ["search", "family", "correlation"],
  state: ["queued", "running", "finished", "failed", "stopped"],
};

export async function showList({ root, query, signal, fail, works }) {
  document.title = "Searches – Espalier";
  const chosen = Object.fromEntries(Object.entries(FILTERS)
    .map(([name, values]) => [name, query.get(name)]).filter(([name, value]) => FILTERS[name].includes(value)));
  const offset = Math.max(0, Number.parseInt(query.get("offset"), 10) || 0);
  const list = el("ul", { class: "searches" });
  const count = el("p", { class: "quiet", role: "status" });
  const pages = el("nav", { class: "pages", "aria-label": "Pages of the list" });
  root.append(el("h1", {}, "Searches"), el("div", { class: "bar" }, filters(chosen), count), list, pages);
  const parameters = new URLSearchParams({ limit: PER_PAGE, offset, ...chosen });
  while (!signal.aborted) {
    try {
      const page = await get(`/v1/searches?${parameters}`, signal);
      sync(list, page.items, { key: (search) => search.id, make, update });
      say(count, described(page, offset, chosen));
      showPages(pages, page, offset, chosen);
      works();
    } catch (error) {
      fail(error);
    }
    await pause(POLL_MS, signal);
  }
}

function address(chosen, offset) {
  const parts = { ...chosen, ...(offset > 0 && { offset }) };
  const query = new URLSearchParams(parts).toString();
  return query ? `#/?${query}` : "#/";
}

function filters(chosen) {
  return Object.entries(FILTERS).map(([name, values]) => {
    const change = (event) => {
      const { [name]: _, ...others } = chosen;
      location.hash = address({ ...others, ...(event.target.value && { [name]: event.target.value }) }, 0);
    };
    const options = ["", ...values].map((value) =>
      el("option", { value, selected: value === chosen[name] }, value || "all"));
    const title = `${name[0].toUpperCase()}${name.slice(1)} `;
    return el("label", { class: "inline" }, title, el("select", { change }, options));
  });
}

function described({ items, total }, offset, { state, kind = "search" }) {
  if (total === 0) return state ? `No ${kind} is ${state}.` : `No ${kind} so far: launch one.`;
  return `${offset + 1} to ${offset + items.length} of ${total}`;
}

function showPages(pages, { next_offset: next }, offset, chosen) {
  const wanted = [
    offset > 0 && ["Newer", address(chosen, Math.max(0, offset - PER_PAGE))],
    next != null && ["Older", address(chosen, next)],
  ].filter(Boolean);
  sync(pages, wanted, {
    key: ([text]) => text,
    make: ([text]) => el("a", { class: "button" }, text),
    update: (link, [, href]) => { link.href = href; },
  });
}

function make(search) {
  const parts = ["name", "state", "what", "when", "bar", "epochs", "best", "left"];
  const made = {
    name: el("a", { href: `#/searches/${encodeURIComponent(search.id)}` }, search.id),
    state: el("span", { class: "state" }),
    bar: el("progress", { max: 1, value: 0, "aria-label": `Progress of ${search.id}` }),
  };
  return el("li", {}, parts.map((part) => el("div", { class: part }, made[part])));
}

function update(item, search) {
  const part = (name) => item.querySelector(`.${name}`);
  const { share, epochs, best, left } = progressOf(search);
  const state = item.querySelector("span.state");
  say(state, stateOf(search));
  state.dataset.state = search.state;
  say(part("what"), [subjectOf(search), ...search.budget].join(", "));
  say(part("when"), moment(search.created_ms));
  item.querySelector("progress").value = share;
  say(part("epochs"), epochs);
  say(part("best"), best);
  say(part("left"), search.state === "failed" ? search.reason : left);
}
