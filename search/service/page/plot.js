/* The live Pareto plot: the score in validation against FLOPs, drawn by Plotly. */

import { el } from "./elements.js";

/* Of each origin: those of mlflow_server/schema.py, which a test compares. */
export const COLOURS = {
  "base": "#8f5bd6",
  "sparse": "#f0e442",
  "fine-tuned": "#d55e00",
  "from-scratch": "#0072b2",
  "copycat": "#cc79a7",
  "tempered": "#56b4e9",
  "uniform": "#e69f00",
  "random": "#999999",
  "bottleneck": "#009e73",
  "wrn": "#b3a100",
};
/* As in the report of a search. */
const SYMBOLS = {
  "base": "star", "sparse": "pentagon",
  "fine-tuned": "circle", "from-scratch": "square", "copycat": "triangle-up",
  "tempered": "triangle-down", "uniform": "x", "random": "diamond",
};
const MARKS = {
  circle: "●", square: "■", "triangle-up": "▲", "triangle-down": "▼", x: "✖", diamond: "◆", star: "★", pentagon: "⬟", hexagon: "⬢",
};
const OTHER = "#999999";

export const colourOf = (origin) => COLOURS[origin] ?? OTHER;
const symbolOf = (origin) => SYMBOLS[origin] ?? "hexagon";
export const markOf = (origin) => MARKS[symbolOf(origin)];

let library;

/* Plotly, loaded by the first plot: it is large. */
function plotly() {
  library ??= new Promise((resolve, reject) => {
    const load = () => resolve(window.Plotly);
    const error = () => { library = undefined; reject(new Error("The plot's library did not load.")); };
    document.head.append(el("script", { src: "assets/plotly.min.js", load, error }));
  });
  return library;
}

function theme(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/* A finger that drags wants to scroll the page, and cannot hover. */
const hasFinger = matchMedia("(pointer: coarse)").matches;

export class FrontPlot {
  /* score: its kind.  choose(key): looked at.  open(key): to be opened. */
  constructor({ score, choose, open, signal }) {
    this.node = el("div", { class: "plot", role: "img" });
    Object.assign(this, { score, choose, open, items: [], limits: {}, chosen: "" });
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", () => this.draw(), { signal });
    signal.addEventListener("abort", () => window.Plotly?.purge(this.node));
  }

  show(items, limits) {
    Object.assign(this, { items, limits });
    return this.draw();
  }

  ring(key) {
    this.chosen = key;
    return this.draw();
  }

  async draw() {
    const library = await plotly();
    if (!this.node.isConnected) return;
    const isFirst = !this.node.on;
    const label = `Validation ${this.score.name} against FLOPs; the table below has the same`;
    this.node.setAttribute("aria-label", label);
    await library.react(this.node, this.traces(), this.layout(), {
      responsive: true, displaylogo: false, displayModeBar: !hasFinger,
      modeBarButtons: [["zoom2d", "pan2d", "resetScale2d"]],
    });
    if (isFirst) this.listen();
  }

  listen() {
    const keyOf = ({ points }) => points.find((point) => point.customdata)?.customdata;
    this.node.on("plotly_hover", (event) => { if (keyOf(event)) this.choose(keyOf(event)); });
    this.node.on("plotly_click", (event) => {
      if (keyOf(event)) (hasFinger ? this.choose : this.open)(keyOf(event));
    });
  }

  traces() {
    const front = this.items.filter((item) => item.on_front);
    const origins = [...new Set(this.items.map((item) => item.origin))];
    return [
      {
        ...placed(front, this.score), mode: "lines", hoverinfo: "skip",
        line: { shape: "hv", width: 1.5, color: theme("--quiet") },
      },
      ...origins.map((origin) => {
        const same = this.items.filter((item) => item.origin === origin);
        return {
          ...placed(same, this.score), mode: "markers", customdata: same.map((item) => item.key), name: origin,
          hoverinfo: "none",
          marker: { color: colourOf(origin), symbol: symbolOf(origin), size: hasFinger ? 13 : 10 },
        };
      }),
      {
        ...placed(this.items.filter((item) => item.key === this.chosen), this.score), mode: "markers", hoverinfo: "skip",
        marker: { symbol: "circle-open", size: 18, color: theme("--text"), line: { width: 2 } },
      },
    ];
  }

  /* At 1, 2 and 5 of each power of ten, where that gives at least two. */
  ticks() {
    const shown = this.items.map((item) => item.flops);
    const isWide = Math.max(...shown) > 4 * Math.min(...shown);
    return isWide ? { dtick: "D2" } : { nticks: 6 };
  }

  layout() {
    const [text, line, quiet] = ["--text", "--line", "--quiet"].map(theme);
    const axis = { gridcolor: line, linecolor: line, zeroline: false, automargin: true };
    const limit = this.limits.flops;
    const edge = { xref: "x", x0: limit, x1: limit, yref: "paper", y0: 0, y1: 1 };
    return {
      showlegend: false, hovermode: "closest", uirevision: "kept", paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 52, r: 12, t: 28, b: 48 },
      dragmode: hasFinger ? false : "zoom",
      font: { family: "system-ui, sans-serif", size: 12, color: text },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: quiet, activecolor: theme("--accent") },
      xaxis: { ...axis, type: "log", title: { text: "FLOPs" }, tickformat: "~s", ...this.ticks() },
      yaxis: { ...axis, title: { text: axisTitle(this.score) }, ...(this.items.length || !this.score.is_share ? {} : { range: [0, 100] }) },
      shapes: limit ? [{ type: "line", ...edge, line: { dash: "dot", width: 1.5, color: quiet } }] : [],
      annotations: limit
        ? [{ xref: "x", x: Math.log10(limit), xanchor: "right", yref: "paper", y: 0, yanchor: "bottom", text: "budget", showarrow: false, font: { color: quiet } }]
        : [],
    };
  }
}

/* The score in validation over the epochs of one trial. */
export class CurvePlot {
  constructor({ score, signal }) {
    this.score = score;
    this.node = el("div", { class: "curve", role: "img" });
    signal.addEventListener("abort", () => window.Plotly?.purge(this.node));
  }

  async show(curve) {
    const library = await plotly();
    if (!this.node.isConnected) return;
    this.node.setAttribute("aria-label", `Validation ${this.score.name} over epochs`);
    const [text, line] = ["--text", "--line"].map(theme);
    const axis = { gridcolor: line, linecolor: line, zeroline: false, automargin: true };
    const stages = [...new Set(curve.map((epoch) => epoch.stage))];
    const traces = stages.map((stage) => {
      const own = curve.filter((epoch) => epoch.stage === stage);
      return {
        name: stage, mode: "lines+markers", marker: { size: 5 },
        x: own.map((epoch) => epoch.step), y: own.map((epoch) => plotted(this.score, epoch.validation_score)),
      };
    });
    await library.react(this.node, traces, {
      showlegend: true, legend: { orientation: "h", y: 1.15 }, hovermode: "closest",
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 52, r: 12, t: 28, b: 44 },
      font: { family: "system-ui, sans-serif", size: 12, color: text },
      xaxis: { ...axis, title: { text: "epochs" }, rangemode: "tozero" },
      yaxis: { ...axis, title: { text: axisTitle(this.score) } },
    }, { responsive: true, displaylogo: false, displayModeBar: false, staticPlot: hasFinger });
  }
}

const plotted = (score, value) => (score.is_share ? 100 * value : value);
const axisTitle = (score) => `validation ${score.name}${score.is_share ? " (%)" : ""}`;

function placed(items, score) {
  return { x: items.map((item) => item.flops), y: items.map((item) => plotted(score, item.validation_score)) };
}
