// Small helpers for the document. Text is always set as text.

export const $ = (id) => document.getElementById(id);

export function make(tag, text = "", values = {}) {
  const node = document.createElement(tag);
  if (text !== "") node.textContent = text;
  for (const [name, value] of Object.entries(values)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  return node;
}

export function fill(list, rows) {
  list.replaceChildren(...rows
    .filter(([, value]) => value !== null && value !== undefined && value !== "")
    .flatMap(([name, value]) => [make("dt", name), make("dd", String(value))]));
}

export function choose(select, names, chosen = null) {
  select.replaceChildren(...names.map(([value, text]) => {
    const option = make("option", text);
    option.value = value;
    return option;
  }));
  if (chosen !== null && names.some(([value]) => String(value) === String(chosen))) select.value = chosen;
}

export const say = (text) => { $("status").textContent = text; };

export function bytes(count) {
  const units = ["bytes", "kB", "MB", "GB"];
  let at = 0;
  let value = count;
  for (; value >= 1000 && at < 3; at += 1) value /= 1000;
  return `${at ? value.toPrecision(3) : value} ${units[at]}`;
}

export function seconds(count) {
  if (count < 1) return "under a second";
  return count < 90 ? `${Math.round(count)} s` : `${Math.round(count / 60)} min`;
}

export const number = (value) => (Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(6))));

export function later(work, delay) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), delay);
  };
}
