/* The trials of a search, told from its events (tracking/search_state.py says what they are). */

import { OVER, get } from "./api.js";
import { Table, el, say, scoreText, short } from "./elements.js";
import { CurvePlot } from "./plot.js";

const REDRAW_MS = 250;

export class Trials {
  constructor({ path, score, fail, signal }) {
    Object.assign(this, { path, fail, signal, tasks: new Map(), isOver: false });
    const columns = [
      { title: "trial", node: (task) => this.name(task) },
      { title: "criterion", text: (task) => task.criterion },
      { title: "settings", text: (task) => task.settings },
      { title: "target FLOPs", number: true, text: (task) => (task.target === null ? "" : short(task.target)) },
      { title: "stage", text: (task) => (this.isOver && !task.outcome ? "interrupted" : task.stage) },
      { title: "epochs", number: true, text: (task) => (task.total ? `${task.step} of ${task.total}` : "") },
      { title: () => `validation ${score.name}`, number: true, text: (task) => scoreText(score, task.value) },
      { title: "outcome", wide: true, text: (task) => task.outcome },
    ];
    this.table = new Table("Every trial", columns, { empty: "None so far.", key: (task) => task.key });
    this.plot = new CurvePlot({ score, signal });
    this.heading = el("h3");
    this.why = el("p", { class: "error" });
    this.chosen = el("div", { class: "trial", hidden: true }, this.heading, this.why, this.plot.node);
    this.node = el("div", {}, this.table.node, this.chosen);
  }

  name(task) {
    const title = `Epochs of ${titleOf(task)}`;
    const click = () => this.choose(task).catch(this.fail);
    return el("button", { type: "button", class: "name", title, click }, titleOf(task).replace("trial ", ""));
  }

  /* Its epochs, asked for when somebody wants to see them. */
  async choose(task) {
    const found = await get(`${this.path}/trials/${task.number}?repeat=${task.repeat}`, this.signal);
    say(this.heading, `${titleOf(task)[0].toUpperCase()}${titleOf(task).slice(1)}: ${found.state}`);
    say(this.why, found.reason);
    this.chosen.hidden = false;
    this.plot.node.hidden = found.curve.length === 0;
    if (found.curve.length) await this.plot.show(found.curve);
    this.chosen.scrollIntoView({ block: "nearest" });
  }

  take(type, event) {
    if (type === "state") this.isOver = OVER.includes(event.state);
    if (type === "launched" || type === "interrupted") this.wait();
    else if (type === "started") this.start(event);
    else if (this.tasks.has(event.key)) this.change(type, event, this.tasks.get(event.key));
    // thousands of events come at once when a long search is opened
    this.timer ??= setTimeout(() => {
      this.timer = undefined;
      this.table.show([...this.tasks.values()]);
    }, REDRAW_MS);
  }

  /* What no process is at work on waits for the next one. */
  wait() {
    for (const task of this.tasks.values()) {
      if (!task.outcome) task.stage = "waiting";
    }
  }

  start({ key, job: task }) {
    if (!task.proposal) return;
    const { criterion, granularity, settings, target_flops: target } = task.proposal;
    const { schedule = "one-shot", cost_exponent: power = 0 } = task.proposal;
    const special = [granularity, schedule].filter((name) => name !== "filter" && name !== "one-shot");
    if (power) special.push(`score / cost^${power}`);
    const known = this.tasks.get(key) ?? {
      key, target, number: task.number, repeat: task.repeat, outcome: "",
      criterion: [criterion, ...special].join(", "),
      settings: described(settings, criterion),
    };
    known.stage = "starting";
    this.tasks.set(key, known);
  }

  change(type, event, task) {
    if (type === "epochs") {
      const { stage, step, num_steps: total, validation_score: value } = event.records.at(-1);
      Object.assign(task, { stage, step, total, value });
    } else if (type === "finished") {
      const [first, ...others] = event.outcomes;
      const more = others.length ? `, and ${others.length} more` : "";
      Object.assign(task, { stage: "finished", step: task.total, value: first.validation_score });
      task.outcome = `${first.key}: ${short(first.flops)} FLOPs${more}`;
    } else if (type === "ended") {
      Object.assign(task, { stage: event.state, outcome: event.reason });
    }
  }
}

function titleOf(task) {
  return `trial ${task.number}${task.repeat ? ` (repeat ${task.repeat})` : ""}`;
}

/* rni.strength of RNI itself as strength. */
function described(settings, criterion) {
  return Object.entries(settings)
    .map(([name, value]) => `${name.replace(`${criterion}.`, "")} ${Number(value.toPrecision(3))}`)
    .join(", ");
}
