/* What came of a study that is no search, as a table: of a family its networks, of a correlation study its criteria. */

import { Table, el, gainText, percent, scoreText, short } from "./elements.js";

export class StudyResults {
  constructor({ score }) {
    this.score = score;
    this.node = el("div");
  }

  /* kind: of study.  content: its results.  links: to what there is beside the table. */
  show(kind, content, links) {
    const table = kind === "family" ? this.family(content) : criteria(content);
    const notes = (content.notes ?? []).map((note) => el("p", { class: "quiet" }, note));
    this.node.replaceChildren(table.node, ...notes, el("p", {}, links));
  }

  say(text) {
    this.node.replaceChildren(el("p", { class: "quiet" }, text));
  }

  family({ points }) {
    const columns = [
      { title: "kind", text: (point) => point.kind },
      { title: "place", text: (point) => point.place },
      { title: "params", number: true, text: (point) => short(point.params) },
      { title: "FLOPs", number: true, text: (point) => short(point.flops) },
      { title: `test ${this.score.name}`, number: true, text: (point) => this.mean(point) },
      { title: "against base", number: true, text: (point) => gainText(this.score, point.score_against_base) },
      { title: "runs", number: true, text: (point) => String(point.num_runs) },
    ];
    const key = (point) => `${point.kind} ${point.place}`;
    const table = new Table("Mean and deviation over runs, each tested once", columns, { empty: "None.", key });
    table.show(points);
    return table;
  }

  mean({ test_score: mean, deviation, num_runs: runs }) {
    const text = scoreText(this.score, mean);
    if (runs < 2) return text;
    return `${text} ± ${this.score.is_share ? percent(deviation) : scoreText(this.score, deviation)}`;
  }
}

function criteria({ criteria: found }) {
  const rows = Object.entries(found).map(([name, row]) => ({ name, ...row }));
  const coefficients = Object.keys(rows[0]?.per_layer ?? {});
  const columns = [
    { title: "criterion", text: (row) => row.name },
    ...[["per_layer", "in layer"], ["all_layers", "overall"]].flatMap(([part, where]) =>
      coefficients.map((name) => ({
        title: `${name} ${where}`, number: true, text: (row) => row[part][name]?.toFixed(3) ?? "–",
      }))),
  ];
  const table = new Table("Correlation with the oracle, the best first", columns, { empty: "None.", key: (row) => row.name });
  table.show(rows);
  return table;
}
