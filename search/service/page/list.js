/* All searches, the newest first, kept up to date. */

import { get, pause } from "./api.js";
import { el, moment, progressOf, say, stateOf, sync } from "./elements.js";

const PER_PAGE = 20;
const POLL_MS = 3000;
const STATES = ["queued", "running", "finished", "failed", "stopped"];

export async function showList({ root, query, signal, fail, works }) {
  document.title = "Searches – Espalier";
  const state = STATES.includes(query.get("state")) ? query.get("state") : "";
  const offset = Math.max(0, Number.parseInt(query.get("offset"), 10) || 0);
  const list = el("ul", { class: "searches" });
  const count = el("p", { class: "quiet", role: "status" });
  const pages = el("nav", { class: "pages", "aria-label": "Pages of the list" });
  root.append(el("h1", {}, "Searches"), el("div", { class: "bar" }, stateFilter(state), count), list, pages);
  const parameters = new URLSearchParams({ limit: PER_PAGE, offset, ...(state && { state }) });
  while (!signal.aborted) {
    try {
      const page = await get(`/v1/searches?${parameters}`, signal);
      sync(list, page.items, { key: (search) => search.id, make, update });
      say(count, described(page, offset, state));
      showPages(pages, page, offset, state);
      works();
    } catch (error) {
      fail(error);
    }
    await pause(POLL_MS, signal);
  }
}

function address(state, offset) {
  const parts = { ...(state && { state }), ...(offset > 0 && { offset }) };
  const query = new URLSearchParams(parts).toString();
  return query ? `#/?${query}` : "#/";
}

function stateFilter(chosen) {
  const change = (event) => { location.hash = address(event.target.value, 0); };
  const options = ["", ...STATES].map((state) =>
    el("option", { value: state, selected: state === chosen }, state || "all"));
  return el("label", { class: "inline" }, "State ", el("select", { change }, options));
}

function described({ items, total }, offset, state) {
  if (total === 0) return state ? `No search is ${state}.` : "No search so far: launch one.";
  return `${offset + 1} to ${offset + items.length} of ${total}`;
}

function showPages(pages, { next_offset: next }, offset, state) {
  const wanted = [
    offset > 0 && ["Newer", address(state, Math.max(0, offset - PER_PAGE))],
    next != null && ["Older", address(state, next)],
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
  say(part("what"), `${search.model} on ${search.data}, ${search.budget.join(", ")}`);
  say(part("when"), moment(search.created_ms));
  item.querySelector("progress").value = share;
  say(part("epochs"), epochs);
  say(part("best"), best);
  say(part("left"), search.state === "failed" ? search.reason : left);
}
