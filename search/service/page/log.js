/* What the processes of a search print: asked for while it is open. */

import { request } from "./api.js";
import { el, say } from "./elements.js";

export class Log {
  constructor({ path, fail }) {
    Object.assign(this, { path, fail });
    this.text = el("pre", { tabindex: 0, "aria-label": "What its processes printed" });
    this.node = el("details", { toggle: () => this.refresh() }, el("summary", {}, "Log"), this.text);
  }

  async refresh() {
    if (!this.node.open) return;
    try {
      const text = await (await request(this.path)).text();
      const isAtEnd = this.text.scrollTop + this.text.clientHeight >= this.text.scrollHeight - 4;
      say(this.text, text || "Nothing so far.");
      if (isAtEnd) this.text.scrollTop = this.text.scrollHeight;
    } catch (error) {
      this.fail(error);
    }
  }
}
