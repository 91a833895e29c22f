/* Which view is shown, and what every view needs: the notice, the token, the footer. */

import { get, token } from "./api.js";
import { el, say } from "./elements.js";
import { showLaunch } from "./launch.js";
import { showList } from "./list.js";
import { showSearch } from "./search.js";

const main = document.getElementById("main");
const notice = document.getElementById("notice");
const signOut = document.getElementById("sign-out");
const ROUTES = [
  { name: "launch", pattern: /^\/launch$/, show: showLaunch },
  { name: "search", pattern: /^\/searches\/([^/]+)$/, show: showSearch },
  { name: "list", pattern: /^\/?$/, show: showList },
];
let leaving = new AbortController();

/* What went wrong, above the view; a missing token is asked for instead. */
function fail(error) {
  if (error.name === "AbortError") return;
  if (error.status === 401) {
    askToken();
    return;
  }
  say(notice, error.message);
  notice.dataset.passes = error.status === 0;
}

/* The service answers again. What an action was refused for stays until the next one. */
function works() {
  if (notice.dataset.passes === "true") say(notice, "");
}

async function show() {
  const [path, query = ""] = location.hash.replace(/^#/, "").split("?");
  if (path === "main") return; // the skip link
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  signOut.hidden = !token.get();
  say(notice, "");
  const route = ROUTES.find(({ pattern }) => pattern.test(path)) ?? ROUTES.at(-1);
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.page === route.name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const id = decodeURIComponent(route.pattern.exec(path)?.[1] ?? "");
  const root = el("div");
  main.replaceChildren(root);
  const page = { root, id, query: new URLSearchParams(query), signal, fail, works };
  try {
    await route.show(page);
  } catch (error) {
    if (!signal.aborted) fail(error);
  }
}

function askToken() {
  leaving.abort();
  const input = el("input", { id: "token", type: "password", autocomplete: "off", required: true });
  const submit = (event) => {
    event.preventDefault();
    token.set(input.value.trim());
    show();
    showFooter().catch(fail);
  };
  say(notice, token.get() ? "This token is not known here." : "");
  main.replaceChildren(
    el("h1", {}, "Sign in"),
    el("form", { class: "token", submit },
      el("label", { for: "token" }, "Token"),
      el("p", { class: "quiet" }, "The operator makes one with espalier token create NAME. It is kept until this tab is closed."),
      input, el("button", { class: "primary" }, "Sign in")),
  );
  input.focus();
}

async function showFooter() {
  const health = await get("/healthz");
  say(document.getElementById("version"), `Espalier ${health.version}`);
  const mlflow = document.getElementById("mlflow");
  mlflow.hidden = !/^https?:/.test(health.mlflow_url);
  mlflow.href = health.mlflow_url;
}

signOut.addEventListener("click", () => { token.clear(); show(); });
main.addEventListener("click", () => say(notice, ""));
window.addEventListener("hashchange", () => { show(); main.focus({ preventScroll: true }); scrollTo(0, 0); });
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
show();
showFooter().catch(fail);
