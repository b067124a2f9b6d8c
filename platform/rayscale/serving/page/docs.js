// The interface for programs, as openapi.json describes it.

import { Refusal, address, call } from "./api.js";
import { $, make } from "./dom.js";

function table(rows) {
  const made = make("table");
  for (const [name, text] of rows) {
    const row = made.insertRow();
    row.append(make("th", name, { scope: "row" }), make("td", text));
  }
  return made;
}

$("example").textContent = `curl --data-binary @small.png -o large.png '${address("v1/upscale")}?scale=2'`;
try {
  const api = await (await call("openapi.json")).json();
  $("about").textContent = `${api.info.summary} ${api.info.description}`;
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, entry] of Object.entries(methods)) {
      const part = make("section");
      part.append(make("h3", `${method.toUpperCase()} ${path}`), make("p", [entry.summary, entry.description].filter(Boolean).join(". ")));
      part.append(table([
        ...(entry.parameters || []).map((each) => [each.name, each.description || ""]),
        ...(entry.requestBody ? [["body", Object.keys(entry.requestBody.content).join(", ")]] : []),
        ...Object.entries(entry.responses).map(([status, answer]) => [status, answer.description]),
      ]));
      $("paths").append(part);
    }
  }
} catch (error) {
  if (!(error instanceof Refusal)) throw error;
  $("about").textContent = error.message;
}
