"use strict";

const page = JSON.parse(document.getElementById("data").textContent);
const card = document.getElementById("card");
const rows = new Map();
for (const row of document.querySelectorAll("tr[data-key]")) {
  rows.set(row.dataset.key, [...(rows.get(row.dataset.key) ?? []), row]);
}

function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

/* The row of a network, as a card beside the plot. */
function describe(key) {
  const row = rows.get(key)[0];
  const headings = [...row.closest("table").querySelectorAll("thead th")].slice(3);
  const facts = document.createElement("dl");
  [...row.cells].slice(3).forEach((cell, i) => {
    facts.append(element("dt", headings[i].textContent), element("dd", cell.textContent));
  });
  const bars = row.querySelector(".bars").cloneNode(true);
  card.replaceChildren(element("h3", key), element("p", row.cells[1].textContent), bars, facts);
  for (const others of rows.values()) {
    for (const other of others) other.classList.toggle("chosen", other.dataset.key === key);
  }
}

/* The library lies in the page compressed; what is unpacked becomes a script of the page. */
async function unpackPlotly() {
  const packed = atob(document.getElementById("plotly").textContent);
  const bytes = Uint8Array.from(packed, (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function themed(figure) {
  const layout = structuredClone(figure.layout);
  layout.font = { family: "system-ui, sans-serif", size: 12, color: colour("--text") };
  for (const axis of [layout.xaxis, layout.yaxis]) {
    Object.assign(axis, { gridcolor: colour("--line"), linecolor: colour("--line") });
  }
  for (const shape of layout.shapes ?? []) shape.line.color = colour("--quiet");
  layout.hoverlabel = { bgcolor: colour("--raised"), font: { color: colour("--text") } };
  layout.modebar = {
    bgcolor: "rgba(0,0,0,0)", color: colour("--quiet"), activecolor: colour("--accent"),
  };
  // a finger that drags wants to scroll the page
  layout.dragmode = matchMedia("(pointer: coarse)").matches ? false : "zoom";
  const data = structuredClone(figure.data);
  for (const trace of data) {
    if (trace.meta === "front") trace.line.color = colour("--quiet");
  }
  return { data, layout };
}

class FrontPlot {
  constructor(node, figure) {
    this.node = node;
    this.figure = figure;
    // a ring around the chosen network
    figure.data.push({
      x: [], y: [], mode: "markers", hoverinfo: "skip", meta: "ring",
      marker: { symbol: "circle-open", size: 18, color: "", line: { width: 2 } },
    });
  }

  points() {
    const shown = this.node.data.filter((t) => t.customdata && t.visible !== false);
    const found = shown.flatMap((t) => t.customdata.map((key, i) => ({ key, x: t.x[i], y: t.y[i] })));
    return found.sort((a, b) => a.x - b.x || a.y - b.y);
  }

  choose(key) {
    this.key = key;
    describe(key);
    const point = this.points().find((p) => p.key === key);
    const ring = this.node.data.length - 1;
    Plotly.restyle(this.node, {
      x: [point ? [point.x] : []], y: [point ? [point.y] : []], "marker.color": colour("--text"),
    }, [ring]);
  }

  step(by) {
    const points = this.points();
    if (!points.length) return;
    const now = points.findIndex((p) => p.key === this.key);
    this.choose(points[(Math.max(now, 0) + by + points.length) % points.length].key);
  }

  listen() {
    for (const name of ["plotly_hover", "plotly_click"]) {
      this.node.on(name, (event) => this.choose(event.points[0].customdata));
    }
    this.node.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
      if (by) {
        event.preventDefault();
        this.step(by);
      }
    });
    for (const [key, found] of rows) {
      for (const row of found) {
        row.querySelector(".name").addEventListener("click", () => {
          this.choose(key);
          this.node.scrollIntoView({ block: "center" });
        });
      }
    }
  }
}

async function draw() {
  await unpackPlotly();
  const node = document.getElementById("front-plot");
  const front = new FrontPlot(node, page.figures.front);
  const plots = [[node, page.figures.front]];
  const curves = document.getElementById("curves-plot");
  if (curves) plots.push([curves, page.figures.curves]);
  const options = {
    responsive: true, displaylogo: false, displayModeBar: true,
    modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
  };
  for (const [target, figure] of plots) {
    const { data, layout } = themed(figure);
    await Plotly.newPlot(target, data, layout, options);
  }
  front.listen();
  if (page.first) front.choose(page.first);

  const boxes = [...document.querySelectorAll(".origins input")];
  const toggle = () => {
    const hidden = new Set(boxes.filter((box) => !box.checked).map((box) => box.value));
    for (const [target] of plots) {
      target.data.forEach((trace, i) => {
        const visible = !hidden.has(trace.meta);
        if ((trace.visible ?? true) !== visible) Plotly.restyle(target, { visible }, [i]);
      });
    }
    if (front.key) front.choose(front.key);
  };
  for (const box of boxes) box.addEventListener("change", toggle);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", async () => {
    for (const [target, figure] of plots) {
      const { data, layout } = themed(figure);
      await Plotly.react(target, data, layout, options);
    }
    toggle();
  });
  document.documentElement.dataset.drawn = "true";
}

draw().catch((error) => {
  document.getElementById("front-plot").textContent =
    `This browser cannot draw the plot (${error}); the tables hold the same numbers.`;
});
