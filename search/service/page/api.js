/* The service's API: requests with the token, problem details as errors, events and files. */

const TOKEN = "espalier-token";
const MOST_PAUSE_MS = 15_000;

export const OVER = ["finished", "failed", "stopped"];

/* Of this tab only, so that closing it signs out. */
export const token = {
  get: () => sessionStorage.getItem(TOKEN) ?? "",
  set: (value) => sessionStorage.setItem(TOKEN, value),
  clear: () => sessionStorage.removeItem(TOKEN),
};

/* Why a request was not served; status 0 where nothing answered. */
export class Problem extends Error {
  constructor(status, detail, field = "") {
    super(detail);
    this.status = status;
    this.field = field;
  }
}

export async function request(path, { method = "GET", headers = {}, body, signal } = {}) {
  const authorization = token.get() ? { Authorization: `Bearer ${token.get()}` } : {};
  let response;
  try {
    response = await fetch(address(path), { method, body, signal, headers: { ...authorization, ...headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The service does not answer; this page keeps trying.");
  }
  if (response.ok) return response;
  const details = await response.json().catch(() => ({}));
  throw new Problem(response.status, details.detail ?? response.statusText, details.field);
}

export async function get(path, signal) {
  return (await request(path, { signal })).json();
}

/* The first page, with the items of all; one that arrives meanwhile shifts those behind it. */
export async function getAll(path, signal) {
  const first = await get(`${path}?limit=1000`, signal);
  const items = new Map(first.items.map((item) => [item.id, item]));
  let next = first.next_offset;
  while (next !== null) {
    const page = await get(`${path}?limit=1000&offset=${next}`, signal);
    for (const item of page.items) items.set(item.id, item);
    next = page.next_offset;
  }
  return { ...first, items: [...items.values()] };
}

export async function post(path, content, { headers = {}, signal } = {}) {
  const answer = await request(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headers },
    body: JSON.stringify(content),
    signal,
  });
  return answer.json();
}

/* Where a path of the service is: beside the page, wherever a proxy has put it. */
export const address = (path) => path.replace(/^\//, "");

export const searchPath = (id) => `/v1/searches/${encodeURIComponent(id)}`;
export const architecturePath = (id, part) => `/v1/architectures/${encodeURIComponent(id)}/${part}`;

/* Saves a file; a plain link could not send the token. */
export async function download(path) {
  const response = await request(path);
  const disposition = response.headers.get("Content-Disposition") ?? "";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await response.blob());
  link.download = /filename="?([^";]+)/.exec(disposition)?.[1] ?? path.split("/").pop();
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/* Opens an architecture's run in MLflow. The tab opens at once: later the browser would block it. */
export async function openRun(id) {
  const tab = window.open("", "_blank");
  try {
    const response = await request(architecturePath(id, "run"), {
      headers: { Accept: "application/json" },
    });
    const { url } = await response.json();
    tab.opener = null;
    tab.location.replace(url);
  } catch (error) {
    tab?.close();
    throw error;
  }
}

export function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}

/* The events of one search, from where the last call left off. EventSource sends no token. */
export class Events {
  constructor(id) {
    this.path = `${searchPath(id)}/events`;
    this.last = "";
  }

  /* Hands each event to `take(type, data)` until the search is over or `signal` aborts. */
  async follow(take, signal) {
    let wait = 1000;
    while (!signal.aborted) {
      let state = "";
      try {
        const headers = this.last ? { "Last-Event-ID": this.last } : {};
        const response = await request(this.path, { headers, signal });
        for await (const { type, id, data } of parsed(response.body.getReader())) {
          if (id) this.last = id;
          if (type === "state") state = data.state;
          take(type, data);
          wait = 1000;
        }
        if (OVER.includes(state)) return;
      } catch (error) {
        if (signal.aborted) return;
        if (error.status >= 400 && error.status < 500) throw error;
      }
      await pause(wait, signal);
      wait = Math.min(2 * wait, MOST_PAUSE_MS);
    }
  }
}

async function* parsed(reader) {
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += decoder.decode(value, { stream: true });
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const fields = block.split("\n").map((line) => /^(\w+): ?(.*)$/.exec(line)).filter(Boolean);
      const { event: type, id, data } = Object.fromEntries(fields.map(([, name, rest]) => [name, rest]));
      if (data) yield { type, id, data: JSON.parse(data) };
    }
  }
}
