// Talks to the service. Every failure is a Refusal, whose message is a sentence for people.

export class Refusal extends Error {
  constructor(message, { status = 0, hint = null, wait = null } = {}) {
    super(message);
    this.status = status;
    this.hint = hint;
    this.wait = wait;
  }
}

const GONE = () => new Refusal("The service does not answer.", {
  hint: "Check that it runs and that you are connected, then try again. Your images and settings are still here.",
});

let key = sessionStorage.getItem("rayscale.key") || "";

export function setKey(text) {
  key = text.trim();
  sessionStorage.setItem("rayscale.key", key);
}

export const hasKey = () => key !== "";
export const headers = () => (key ? { Authorization: `Bearer ${key}` } : {});
export const address = (path) => new URL(path, document.baseURI).href;

export function query(values) {
  const kept = Object.entries(values).filter(([, value]) => value !== null && value !== "" && value !== false);
  const text = new URLSearchParams(kept).toString();
  return text && `?${text}`;
}

function refusal(status, text, wait) {
  let told = null;
  try {
    told = JSON.parse(text).error;
  } catch {
    // A proxy answered, not the service.
  }
  if (!told) return status ? new Refusal(`The service answered with status ${status}.`, { status, wait }) : GONE();
  const message = told.message.charAt(0).toUpperCase() + told.message.slice(1);
  return new Refusal(message, { status, hint: told.hint, wait });
}

/** The answer to a request, or a Refusal. */
export async function call(path, { body = null, signal = null, type = null, method = body === null ? "GET" : "POST" } = {}) {
  let response;
  try {
    response = await fetch(address(path), {
      method, body, signal,
      headers: { ...headers(), ...(type ? { "Content-Type": type } : {}) },
    });
  } catch (error) {
    throw error.name === "AbortError" ? error : GONE();
  }
  if (!response.ok) throw refusal(response.status, await response.text(), response.headers.get("Retry-After"));
  return response;
}

/** Send a file; `arrived` hears which share of it has been sent. fetch does not tell. */
export function send(path, file, arrived, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", address(path));
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.onprogress = (event) => event.lengthComputable && arrived(event.loaded / event.total);
    request.upload.onload = () => arrived(1);
    request.onload = () => (request.status === 200
      ? resolve(JSON.parse(request.responseText))
      : reject(refusal(request.status, request.responseText, request.getResponseHeader("Retry-After"))));
    request.onerror = () => reject(GONE());
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}
