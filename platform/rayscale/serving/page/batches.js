// Batches: started here, watched while they run, retried and cancelled.

import { Refusal, call } from "./api.js";
import { $, make, number, say, seconds } from "./dom.js";

const ACTIVE = ["queued", "running"];
const EVERY_MS = 2000;

export class Batches {
  /** `asked` gives model, scale and options of the moment. */
  constructor({ asked }) {
    this.timer = 0;
    $("batch").addEventListener("submit", (event) => {
      event.preventDefault();
      const { source, target } = event.target.elements;
      const { model, ...options } = asked();
      const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== false));
      const body = JSON.stringify({ source: source.value, target: target.value, model, options: given });
      this.act("v1/batches", { body, type: "application/json" });
    });
  }

  show(open) {
    $("batches").hidden = !open;
    $("stage").hidden = open;
    $("batches-open").setAttribute("aria-expanded", String(open));
    clearTimeout(this.timer);
    if (open) {
      this.load();
      $("batches").focus();
    }
  }

  async act(path, request) {
    try {
      const batch = await (await call(path, request)).json();
      $("batch-problem").replaceChildren();
      say(`Batch from ${batch.source}: ${batch.state}`);
      await this.load();
    } catch (error) {
      this.complain(error);
    }
  }

  async load() {
    clearTimeout(this.timer);
    let busy = false;
    try {
      const { batches } = await (await call("v1/batches")).json();
      busy = batches.some((batch) => ACTIVE.includes(batch.state));
      const open = new Set([...document.querySelectorAll(".batch details[open]")].map((each) => each.dataset.id));
      $("batch-list").replaceChildren(...batches.map((batch) => this.card(batch, open)));
      if (!batches.length) $("batch-list").append(make("p", "No batches yet.", { class: "hint" }));
      $("batch-problem").replaceChildren();
    } catch (error) {
      busy = error.status !== 404;
      this.complain(error);
    }
    if (busy && !$("batches").hidden) this.timer = setTimeout(() => this.load(), EVERY_MS);
  }

  card(batch, open) {
    const { counts } = batch;
    const card = make("article", "", { class: "batch" });
    card.append(make("h3", `${batch.source} → ${batch.target}`));
    const done = counts.finished + counts.failed + counts.skipped;
    if (ACTIVE.includes(batch.state)) {
      const bar = make("progress", "", { max: Math.max(counts.todo, 1), "aria-label": `Progress of ${batch.source}` });
      if (counts.todo) bar.value = done;
      card.append(bar);
    }
    const facts = [
      batch.state, `${counts.finished} of ${counts.todo} images`,
      counts.failed && `${counts.failed} failed`, batch.megapixels_per_second && `${number(batch.megapixels_per_second)} megapixels/s`,
      batch.seconds_left && `about ${seconds(batch.seconds_left)} left`, batch.model,
    ];
    card.append(make("p", facts.filter(Boolean).join(", ")));
    if (batch.message) card.append(make("p", batch.message));
    if (batch.failures.length) {
      const details = make("details", "", { "data-id": batch.id });
      details.open = open.has(batch.id);
      const list = make("ul");
      list.append(...batch.failures.map((each) => make("li", `${each.key}: ${each.message}`)));
      details.append(make("summary", `${counts.failed} failures`), list);
      card.append(details);
    }
    const actions = make("div", "", { class: "actions" });
    const path = `v1/batches/${batch.id}`;
    if (ACTIVE.includes(batch.state)) {
      actions.append(make("button", "Cancel", { type: "button", onclick: () => this.act(path, { method: "DELETE" }) }));
    } else if (batch.state !== "done") {
      actions.append(make("button", "Retry", { type: "button", onclick: () => this.act(`${path}/retry`, { method: "POST", body: "" }) }));
    }
    if (actions.children.length) card.append(actions);
    return card;
  }

  complain(error) {
    if (!(error instanceof Refusal)) throw error;
    const lines = [make("p", error.message)];
    if (error.hint) lines.push(make("p", error.hint));
    $("batch-problem").replaceChildren(...lines);
  }
}
