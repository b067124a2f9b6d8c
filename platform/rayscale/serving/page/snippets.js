// The same request by other means.

import { address, hasKey, query } from "./api.js";
import { $, make, say } from "./dom.js";

const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** What the result of `name` is called: photo.png at scale 2 is photo-x2.png. */
export function largerName(name, scale) {
  const found = /^(.*?)((?:\.nii)?\.[A-Za-z0-9]+)$/.exec(name);
  return found ? `${found[1]}-x${scale}${found[2]}` : `${name}-x${scale}`;
}

/** How the files of an image are sent; of a series, all of its slices. */
export function showSnippets(names, options) {
  const [name] = names;
  const larger = largerName(name, options.scale);
  const flags = ["ensemble", "consistency", "uncertainty"].filter((flag) => options[flag]);
  const sent = { ...options, uncertainty: false };
  const key = hasKey() ? " -H 'Authorization: Bearer KEY'" : "";
  const given = flags.map((flag) => `, ${flag}=True`).join("");
  const texts = {
    curl: `curl --data-binary @${quoted(name)}${key} -o ${quoted(larger)} \\\n  '${address("v1/upscale")}${query(sent)}'`,
    Python: `import rayscale\n\nrayscale.upscale(\n    ${JSON.stringify(name)}, ${JSON.stringify(larger)},\n    model=${JSON.stringify(options.model)}, scale=${options.scale}${given},\n)`,
    "Command line": `rayscale upscale ${quoted(name)} ${quoted(larger)} \\\n  -m ${quoted(options.model)} -s ${options.scale}${flags.map((flag) => ` --${flag}`).join("")}`,
  };
  if (names.length > 1) {
    const all = names.map(quoted).join(" ");
    texts.curl = `for slice in ${all}; do\n  curl --data-binary @"$slice"${key} -o "larger-$slice" \\\n    '${address("v1/upscale")}${query(sent)}'\ndone`;
    texts.Python = `import rayscale\n\nfor name in ${JSON.stringify(names)}:\n    rayscale.upscale(\n        name, f"larger-{name}",\n        model=${JSON.stringify(options.model)}, scale=${options.scale}${given},\n    )`;
    texts["Command line"] = `for slice in ${all}; do\n  rayscale upscale "$slice" "larger-$slice" \\\n    -m ${quoted(options.model)} -s ${options.scale}${flags.map((flag) => ` --${flag}`).join("")}\ndone`;
  }
  $("snippets").replaceChildren(...Object.entries(texts).flatMap(([title, text]) => {
    const head = make("h3", title);
    head.append(make("button", "Copy", {
      type: "button", "aria-label": `Copy ${title}`,
      onclick: async () => {
        await navigator.clipboard.writeText(text);
        say("Copied");
      },
    }));
    const block = make("pre", "", { tabindex: "0", "aria-label": title });
    block.append(make("code", text));
    return [head, block];
  }));
}
