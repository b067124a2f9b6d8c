// How values become colours: slice, bands, stretch, window and level. Before and after are always shown alike.

import { $, choose, fill, later, make, number } from "./dom.js";

const STEPS = 1000;
const COLOURS = ["Red", "Green", "Blue"];

export class Display {
  constructor({ changed }) {
    this.changed = later(changed, 120);
    $("slice").addEventListener("input", () => { this.show(); this.changed(); });
    $("stretch").addEventListener("change", () => { this.reset(); this.changed(); });
    for (const name of ["window", "level"]) {
      $(name).addEventListener("input", () => { this.show(); this.changed(); });
    }
  }

  open(view) {
    const same = this.view && JSON.stringify(this.view.before.channels) === JSON.stringify(view.before.channels)
      && this.view.before.slices === view.before.slices && this.view.before.type === view.before.type;
    this.view = view;
    const { channels, slices, stretches } = view.before;
    $("slice-box").hidden = slices < 2;
    $("slice").max = slices - 1;
    choose($("stretch"), Object.keys(stretches).map((name) => [name, sentence(name)]), $("stretch").value);
    if (!same) {
      $("slice").value = Math.floor(slices / 2);
      $("stretch").selectedIndex = 0;
      this.bands(channels);
    }
    this.reset();
  }

  bands(channels) {
    const box = $("bands");
    box.replaceChildren();
    box.className = "";
    const first = channels.length >= 3 ? natural(channels) : [0, 0, 0];
    this.fixed = channels.length === 1 ? [0] : first;
    if (channels.length === 1 || channels.join() === COLOURS.join()) return;
    box.className = "triple";
    for (const [at, colour] of COLOURS.entries()) {
      const select = make("select");
      choose(select, channels.map((name, band) => [band, name]), first[at]);
      select.addEventListener("change", () => { this.show(); this.changed(); });
      const label = make("label", `${colour} `);
      label.append(select);
      box.append(label);
    }
  }

  chosen() {
    const selects = [...$("bands").querySelectorAll("select")];
    return selects.length ? selects.map((select) => Number(select.value)) : this.fixed;
  }

  reset() {
    $("window").value = STEPS / 2;
    $("level").value = STEPS / 2;
    this.show();
  }

  /** Black and white of a band: half a slider is the stretch as it is; the ends are a hundredth and ten times of it. */
  ends(band) {
    const { black, white } = this.view.before.stretches[$("stretch").value];
    const span = white[band] - black[band];
    const width = span * 10 ** (2 * ($("window").value / STEPS - 0.5) * ($("window").value > STEPS / 2 ? 1 : 2));
    const centre = (black[band] + white[band]) / 2 + 2 * span * ($("level").value / STEPS - 0.5);
    return [centre - width / 2, centre + width / 2];
  }

  show() {
    const { slices, units, channels, type } = this.view.before;
    $("slice-shown").textContent = `${Number($("slice").value) + 1} of ${slices}`;
    const band = this.chosen()[0];
    const [black, white] = this.ends(band);
    const unit = units[band];
    const name = unit.name || (channels.length > 1 && type !== "uint8" ? `in ${channels[band]}` : "");
    $("window-shown").textContent = `${rounded(Math.abs(white - black) * Math.abs(unit.scale))} ${name}`;
    $("level-shown").textContent = `${rounded(((black + white) / 2) * unit.scale + unit.offset)} ${name}`;
  }

  /** What a tile is asked with. */
  values() {
    const chosen = this.chosen();
    const ends = chosen.map((band) => this.ends(band));
    return {
      slice: $("slice").value, bands: chosen.join(","),
      black: ends.map(([black]) => black).join(","), white: ends.map(([, white]) => white).join(","),
    };
  }
}

/** What a pixel is worth and where it lies. */
export function showPoint(view, point, at) {
  const rows = [];
  const scaled = (values, units) => values.map((value, band) => (
    value === null ? "no value" : number(value * units[band].scale + units[band].offset)));
  const unit = view.before.units[0].name;
  const { channels } = view.before;
  const [after, before] = ["after", "before"].map((layer) => scaled(point[layer], view[layer].units));
  if (channels.length <= 3) {
    rows.push(["Before", `${before.join(", ")} ${unit}`], ["After", `${after.join(", ")} ${unit}`]);
  } else {
    channels.forEach((name, band) => rows.push([name, `${before[band]} → ${after[band]} ${view.before.units[band].name}`]));
  }
  if (point.uncertainty) {
    const spread = point.uncertainty.map((value, band) => (
      value === null ? "no value" : number(value * Math.abs(view.before.units[band]?.scale ?? 1))));
    rows.push(["Uncertainty", `± ${spread.join(", ")} ${unit}`]);
  }
  if (point.place) {
    const digits = point.place.unit === "degrees" ? 6 : 2;
    point.place.axes.forEach((axis, n) => rows.push([sentence(axis), `${point.place.values[n].toFixed(digits)} ${point.place.unit}`]));
    rows.push(["Coordinates", point.place.system]);
  }
  $("column").value = at.column;
  $("row").value = at.row;
  fill($("values"), rows);
}

export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

const rounded = (value) => number(Number(value.toPrecision(4)));

/** Red, green and blue of a scene by the names of its bands; Sentinel-2 and Landsat have them in another order. */
function natural(channels) {
  const known = [/^(b0?4|red)\b/i, /^(b0?3|green)\b/i, /^(b0?2|blue)\b/i];
  const found = known.map((pattern) => channels.findIndex((name) => pattern.test(name.trim())));
  if (found.every((at) => at >= 0)) return found;
  return channels.length >= 7 ? [3, 2, 1] : [0, 1, 2];
}
