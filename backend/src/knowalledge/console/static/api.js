// What all pages share: elements, requests, streams. Text from outside is only ever set as text.

/** An element; `children` are elements or texts. */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

export class Problem extends Error {
  constructor(body, status) {
    super(body.detail || body.title || `status ${status}`);
    this.code = body.code;
    this.status = status;
    this.requestId = body.request_id;
  }
}

async function problem(response) {
  let body = {};
  try { body = await response.json(); } catch { /* not ours: a proxy's page */ }
  const failure = new Problem(body, response.status);
  failure.retryAfter = Number(response.headers.get("Retry-After")) || 0;
  return failure;
}

// Where a key is needed the reader gives it once; it stays in this tab.
const keyed = () => { const key = sessionStorage.getItem("key"); return key ? { Authorization: `Bearer ${key}` } : {}; };

/** A form that asks for a key and calls `then` with it kept. */
export function askForKey(label, button, then) {
  const field = h("input", { type: "password", autocomplete: "off", required: true, "aria-label": label });
  return h("form", { class: "row", onsubmit: (event) => { event.preventDefault(); sessionStorage.setItem("key", field.value.trim()); then(); } },
    h("div", { class: "grow" }, field), h("button", {}, button));
}

/** A GET that answers JSON: `{body, source}`, the source being where the answer came from. */
export async function get(path, signal) {
  const response = await fetch(path, { headers: { Accept: "application/json", ...keyed() }, signal });
  if (!response.ok) throw await problem(response);
  const body = await response.json();
  return { body, source: sourceOf(response, path) };
}

/** Where an answer came from, by RFC 9211's Cache-Status and the browser's own timing. */
function sourceOf(response, path) {
  const entries = performance.getEntriesByName(new URL(path, location.href).href);
  const timing = entries[entries.length - 1];
  if (timing && timing.transferSize === 0 && timing.decodedBodySize > 0) return { status: "browser", layer: "" };
  const status = response.headers.get("Cache-Status") || "";
  const hit = status.split(",").map((it) => it.trim()).find((it) => /;\s*hit\b/.test(it));
  if (response.headers.get("X-Degraded")) return { status: "stale", layer: "" };
  if (response.headers.get("X-Cache") === "HIT") return { status: "cdn", layer: "" };
  return hit ? { status: "hit", layer: hit.split(";")[0].replace(/^knowalledge-/, "") } : { status: "miss", layer: "" };
}

/** Post bytes that are not JSON. */
export async function post(path, body) {
  const response = await fetch(path, { method: "POST", body, headers: keyed() });
  if (!response.ok) throw await problem(response);
  return response.json();
}

/** Ask for a stream, with JSON if `body` is given, and hand each server-sent event to `on(event, data)`. */
export async function stream(path, body, headers, on, signal) {
  const json = body ? { method: "POST", body: JSON.stringify(body) } : {};
  const type = body ? { "Content-Type": "application/json" } : {};
  const response = await fetch(path, { ...json, signal, headers: { Accept: "text/event-stream", ...type, ...keyed(), ...headers } });
  if (!response.ok) throw await problem(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const text of events) {
      const name = /^event: (.*)$/m.exec(text), data = /^data: (.*)$/m.exec(text);
      if (name && data) on(name[1], JSON.parse(data[1]));
    }
  }
}

/** A duration as people say it. */
export function duration(seconds) {
  if (seconds < 1) return "1 s";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 360) / 10} h`;
}

export const number = (value) => new Intl.NumberFormat(document.documentElement.lang).format(value);
