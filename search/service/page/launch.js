/* The form that launches a search, made from the OpenAPI description of its settings. */

import { get, pause, post, searchPath } from "./api.js";
import { el, say } from "./elements.js";

const WAIT_MS = 400;
/* What most people set, by the names that the settings have, and how it is called. */
const COMMON = {
  "model": "network", "data.source": "data", "budget": "budget", "trials": "trials",
  "training.epochs": "epochs", "criterion": "criterion", "name": "name",
};
const CHOICES = { "model": "/v1/models", "data.source": "/v1/datasets", "criterion": "/v1/criteria" };
const TITLES = { "": "Search", data: "Data", training: "Training", study: "Study", resources: "Resources" };

/* `like` in the address names a search whose settings the form begins with. */
export async function showLaunch({ root, query, signal, fail, works }) {
  document.title = "Launch a search – Espalier";
  const { components } = await get("/openapi.json", signal);
  const like = query.get("like");
  const given = like ? (await get(searchPath(like), signal)).settings : {};
  const form = new LaunchForm(components.schemas.SearchSettings, given, { signal, fail, works });
  root.append(el("h1", {}, "Launch a search"), form.node);
  form.check();
  await form.offer();
}

/* One setting: its label, its control, its help and what is wrong with it. */
class Field {
  constructor(name, schema, label, given) {
    Object.assign(this, { name, schema, given: given ?? schema.default });
    const id = `field-${name}`;
    this.control = this.made(id);
    this.error = el("p", { class: "error", id: `${id}-error` });
    const help = el("p", { class: "help", id: `${id}-help` }, schema.description);
    const parts = [el("label", { for: id }, label), this.control, help, this.error];
    this.node = el("div", { class: "field" }, parts);
  }

  /* The type, where null may be one too. */
  get types() {
    return (this.schema.anyOf ?? [this.schema]).map((part) => part.type);
  }

  made(id) {
    const shared = { id, name: this.name, "aria-describedby": `${id}-help ${id}-error` };
    if (this.types.includes("boolean")) {
      const options = this.types.includes("null") ? [["", "by default"]] : [];
      options.push(["true", "yes"], ["false", "no"]);
      return el("select", shared, options.map(([value, text]) =>
        el("option", { value, selected: value === String(this.given ?? "") }, text)));
    }
    const isNumber = this.types.some((type) => type === "integer" || type === "number");
    return el("input", {
      ...shared, value: written(this.given), placeholder: written(this.schema.default), type: "text", inputmode: isNumber && "decimal",
      autocomplete: "off", autocapitalize: "none", spellcheck: "false", list: CHOICES[this.name] && `choices-${this.name}`,
    });
  }

  /* As it is sent; undefined for the default. What is no number is left for the server to refuse. */
  get value() {
    const text = this.control.value.trim();
    if (text === "") return undefined;
    const value = this.read(text);
    return JSON.stringify(value) === JSON.stringify(this.schema.default) ? undefined : value;
  }

  read(text) {
    if (this.types.includes("boolean")) return text === "true";
    if (this.types.includes("array")) {
      const parts = text.split(/[,\s]+/).filter(Boolean);
      return this.schema.items.type === "number" ? parts.map(number) : parts;
    }
    return this.types.includes("string") ? text : number(text);
  }

  refuse(detail) {
    say(this.error, detail);
    if (detail) this.control.setAttribute("aria-invalid", "true");
    else this.control.removeAttribute("aria-invalid");
    const fold = this.node.closest("details");
    if (detail && fold) fold.open = true;
  }
}

function written(value) {
  return Array.isArray(value) ? value.join(", ") : value ?? "";
}

function number(text) {
  return Number.isFinite(Number(text)) ? Number(text) : text;
}

class LaunchForm {
  constructor(schema, given, { signal, fail, works }) {
    Object.assign(this, { given, signal, fail, works, checking: new AbortController(), key: "", keyOf: "" });
    this.fields = new Map();
    this.answer = el("div", { class: "answer", role: "status", "aria-label": "Preflight" });
    this.button = el("button", { class: "primary" }, "Launch");
    const common = Object.entries(COMMON).map(([name, label]) => this.field(name, at(schema, name), label));
    this.node = el("form", { novalidate: true, input: () => this.check(), submit: (event) => this.submit(event) },
      el("p", { class: "quiet" }, "An empty field means its default."),
      el("div", { class: "fields" }, common),
      el("h2", {}, "Preflight"), this.answer,
      el("div", { class: "buttons" }, this.button),
      el("h2", {}, "Everything else"),
      this.folds(schema));
  }

  field(name, schema, label) {
    // two searches of one name would only get numbers
    const given = name === "name" ? undefined : name.split(".").reduce((part, step) => part?.[step], this.given);
    const field = new Field(name, schema, label, given);
    this.fields.set(name, field);
    return field.node;
  }

  /* What is not common, folded up: one fold for the search itself, one for each table. */
  folds(schema) {
    const all = Object.entries(schema.properties);
    const tables = all.filter(([, part]) => part.properties).map(([name, part]) => [name, part.properties]);
    const own = Object.fromEntries(all.filter(([, part]) => !part.properties));
    return [["", own], ...tables].map(([table, properties]) => {
      const names = Object.keys(properties).filter((name) => !(prefixed(table, name) in COMMON));
      const fields = names.map((name) => this.field(prefixed(table, name), properties[name], name.replaceAll("_", " ")));
      const summary = el("summary", {}, TITLES[table] ?? table);
      return el("details", {}, summary, el("div", { class: "fields" }, fields));
    });
  }

  /* Names to choose from; the form works without. */
  async offer() {
    await Promise.all(Object.entries(CHOICES).map(async ([name, path]) => {
      const { items } = await get(path, this.signal);
      const options = items.map((item) => el("option", { value: item.name ?? item }));
      this.node.append(el("datalist", { id: `choices-${name}` }, options));
    }));
  }

  get settings() {
    const settings = {};
    for (const [name, field] of this.fields) {
      if (field.value === undefined) continue;
      const [last, table] = name.split(".").reverse();
      const place = table ? (settings[table] ??= {}) : settings;
      place[last] = field.value;
    }
    return settings;
  }

  /* The preflight's answer to what stands there, a moment after the last key. */
  async check() {
    this.checking.abort();
    this.checking = new AbortController();
    const signal = AbortSignal.any([this.checking.signal, this.signal]);
    this.answer.setAttribute("aria-busy", "true");
    if (!this.answer.firstChild) this.answer.append(el("p", {}, "Checking …"));
    await pause(WAIT_MS, signal);
    if (signal.aborted) return;
    try {
      const { lines } = await post("/v1/preflight", this.settings, { signal });
      this.accept(lines);
    } catch (error) {
      if (!signal.aborted) this.refuse(error);
    }
  }

  accept(lines) {
    for (const field of this.fields.values()) field.refuse("");
    this.answer.removeAttribute("aria-busy");
    this.answer.replaceChildren(...lines.map(answered));
    this.works();
  }

  refuse(error) {
    if (error.status === 401) this.fail(error);
    const wrong = this.fields.get(error.field);
    for (const field of this.fields.values()) field.refuse(field === wrong ? error.message : "");
    this.answer.removeAttribute("aria-busy");
    this.answer.replaceChildren(el("p", { class: "error" }, wrong ? `Not like this: see ${error.field}.` : error.message));
    return wrong;
  }

  async submit(event) {
    event.preventDefault();
    if (this.button.disabled) return;
    this.checking.abort();
    this.button.disabled = true;
    try {
      const settings = this.settings;
      const headers = { "Idempotency-Key": this.keyFor(JSON.stringify(settings)) };
      const search = await post("/v1/searches", settings, { headers });
      location.hash = `#/searches/${encodeURIComponent(search.id)}`;
    } catch (error) {
      this.refuse(error)?.control.focus();
    } finally {
      this.button.disabled = false;
    }
  }

  /* The same for another try at the same settings: the first may have reached the service. */
  keyFor(text) {
    if (text !== this.keyOf) {
      const bytes = crypto.getRandomValues(new Uint8Array(16));
      this.key = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
      this.keyOf = text;
    }
    return this.key;
  }
}

/* A line of the preflight begins with what it is about. */
function answered(line) {
  const [about, ...rest] = line.split(/\s{2,}/);
  if (!rest.length) return el("p", {}, line);
  return el("p", {}, el("span", { class: "about" }, about, " "), rest.join(" "));
}

function prefixed(table, name) {
  return table ? `${table}.${name}` : name;
}

function at(schema, name) {
  return name.split(".").reduce((part, step) => part.properties[step], schema);
}
