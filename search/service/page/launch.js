/* The form that launches a search or another study, made from the OpenAPI description of its settings. */

import { get, pause, post, searchPath } from "./api.js";
import { el, say } from "./elements.js";

const WAIT_MS = 400;
const NEWEST = 10;
/* By kind of study: its title, its settings in the description, and what most people set of them, by the
   names that the settings have, and how it is called. */
const KINDS = {
  search: {
    title: "Search", schema: "SearchSettings", common: {
      "model": "network", "data.source": "data", "budget": "budget", "trials": "trials",
      "training.epochs": "epochs", "criterion": "criterion", "name": "name",
    },
  },
  family: {
    title: "Family study", schema: "FamilySettings", common: {
      "source": "network whose shape is rescaled", "budgets": "budgets", "kinds": "kinds of family", "seeds": "seeds",
      "training.scratch_epochs": "epochs", "name": "name",
    },
  },
  correlation: {
    title: "Correlation study", schema: "CorrelationSettings", common: {
      "model": "network", "data.source": "data", "criterion": "criteria", "training.epochs": "epochs", "name": "name",
    },
  },
};
const CHOICES = {
  "model": (signal) => named("/v1/models", signal),
  "data.source": (signal) => named("/v1/datasets", signal),
  "criterion": (signal) => named("/v1/criteria", signal),
  "source": networks,
};
const TITLES = { data: "Data", training: "Training", study: "Study", resources: "Resources" };

/* `kind` in the address is that of the study; `like` names one whose settings the form begins with. */
export async function showLaunch({ root, query, signal, fail, works }) {
  const { components } = await get("/openapi.json", signal);
  const like = query.get("like");
  const { kind, settings } = like ? await get(searchPath(like), signal) : { kind: query.get("kind"), settings: {} };
  const chosen = Object.hasOwn(KINDS, kind) ? kind : "search";
  const title = `Launch a ${KINDS[chosen].title.toLowerCase()}`;
  document.title = `${title} – Espalier`;
  const schema = components.schemas[KINDS[chosen].schema];
  const form = new LaunchForm(chosen, schema, settings, { signal, fail, works });
  root.append(el("h1", {}, title), kindControl(chosen), form.node);
  form.check();
  await form.offer();
}

function kindControl(chosen) {
  const change = (event) => { location.hash = `#/launch?kind=${event.target.value}`; };
  const options = Object.entries(KINDS).map(([kind, { title }]) => el("option", { value: kind, selected: kind === chosen }, title));
  return el("label", { class: "inline" }, "Kind ", el("select", { change }, options));
}

async function named(path, signal) {
  return (await get(path, signal)).items.map((item) => item.name ?? item);
}

/* Those on the fronts of the newest searches, as SEARCH/NAME. */
async function networks(signal) {
  const { items } = await get(`/v1/searches?kind=search&state=finished&limit=${NEWEST}`, signal);
  const none = { items: [] }; // of a search that is removed meanwhile
  const fronts = await Promise.all(items.map(({ id }) => get(`${searchPath(id)}/front`, signal).catch(() => none)));
  return fronts.flatMap((front, i) => front.items.map(({ key }) => `${items[i].id}/${key}`));
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
  constructor(kind, schema, given, { signal, fail, works }) {
    Object.assign(this, { kind, given, signal, fail, works, checking: new AbortController(), key: "", keyOf: "" });
    this.fields = new Map();
    this.answer = el("div", { class: "answer", role: "status", "aria-label": "Preflight" });
    this.button = el("button", { class: "primary" }, "Launch");
    const common = Object.entries(KINDS[kind].common).map(([name, label]) => this.field(name, at(schema, name), label));
    this.node = el("form", { novalidate: true, input: () => this.check(), submit: (event) => this.submit(event) },
      el("p", { class: "quiet" }, "An empty field means its default."),
      el("div", { class: "fields" }, common),
      el("h2", {}, "Preflight"), this.answer,
      el("div", { class: "buttons" }, this.button),
      el("h2", {}, "Everything else"),
      this.folds(schema));
  }

  field(name, schema, label) {
    // two studies of one name would only get numbers
    const given = name === "name" ? undefined : name.split(".").reduce((part, step) => part?.[step], this.given);
    const field = new Field(name, schema, label, given);
    this.fields.set(name, field);
    return field.node;
  }

  /* What is not common, folded up: one fold for the study itself, one for each table. */
  folds(schema) {
    const all = Object.entries(schema.properties);
    const tables = all.filter(([, part]) => part.properties).map(([name, part]) => [name, part.properties]);
    const own = Object.fromEntries(all.filter(([, part]) => !part.properties));
    return [["", own], ...tables].map(([table, properties]) => {
      const names = Object.keys(properties).filter((name) => !(prefixed(table, name) in KINDS[this.kind].common));
      const fields = names.map((name) => this.field(prefixed(table, name), properties[name], name.replaceAll("_", " ")));
      const summary = el("summary", {}, table ? TITLES[table] ?? table : KINDS[this.kind].title);
      return el("details", {}, summary, el("div", { class: "fields" }, fields));
    });
  }

  /* Names to choose from; the form works without. */
  async offer() {
    const names = Object.keys(CHOICES).filter((name) => this.fields.has(name));
    await Promise.all(names.map(async (name) => {
      const options = (await CHOICES[name](this.signal)).map((value) => el("option", { value }));
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
      const { lines } = await post(`/v1/preflight?kind=${this.kind}`, this.settings, { signal });
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
      const search = await post(`/v1/searches?kind=${this.kind}`, settings, { headers });
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
