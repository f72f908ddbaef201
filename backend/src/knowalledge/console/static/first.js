import { Problem, askForKey, duration, h, number, stream } from "./api.js";
import { t, translate } from "./texts.js";

translate();
const $ = (id) => document.getElementById(id);
const form = $("ask"), answer = $("answer"), status = $("status"), badges = $("badges"), fault = $("fault"), stop = $("stop");
let running = null, countdown = 0;

function waitFor(position, eta) {
  const until = Date.now() + eta * 1000;
  clearInterval(countdown);
  const tell = () => { status.textContent = t("wait.place", "Place {position} in the queue, about {eta} to go …", { position, eta: duration(Math.max(0, (until - Date.now()) / 1000)) }); };
  tell();
  countdown = setInterval(tell, 1000);
}

const badge = (text, kind = "") => badges.append(h("span", { class: `badge ${kind}` }, text));

function tellDone(done) {
  badge(t(`cache.${done.cache.status}`, { hit: "from the cache: {layer}", miss: "fresh", shared: "shared with another request", stale: "older, for want of a fresh one", bypass: "past the cache" }[done.cache.status], { layer: done.cache.layer || "" }));
  badge(t("done.tokens", "{input} tokens read, {output} written", { input: number(done.usage.input_tokens), output: number(done.usage.output_tokens) }));
  if (done.queue.waited_ms >= 50) badge(t("done.waited", "waited {seconds} s", { seconds: number(Math.round(done.queue.waited_ms / 100) / 10) }));
  badge(t("done.target", "by {target}", { target: done.target }));
  if (done.finish_reason !== "stop") badge(done.finish_reason, "warn");
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (running) running.abort();
  const own = running = new AbortController();
  answer.textContent = ""; badges.textContent = ""; fault.hidden = true;
  status.textContent = t("wait.sent", "Sent …"); stop.hidden = false; answer.setAttribute("aria-busy", "true");
  const handlers = {
    queued: (data) => waitFor(data.position, data.eta_s),
    started: (data) => { clearInterval(countdown); status.textContent = t("wait.begun", "{model} answers …", data); },
    delta: (data) => answer.append(data.text),
    done: tellDone,
    error: (data) => { throw new Problem(data, data.status); },
  };
  try {
    const body = { prompt: $("prompt").value, model: $("model").value || undefined, stream: true };
    await stream("/api/v1/generate", body, { "X-Priority": $("priority").value }, (name, data) => handlers[name]?.(data), own.signal);
    status.textContent = "";
  } catch (error) {
    if (own.signal.aborted) { if (running === own) status.textContent = t("done.stopped", "Stopped."); }
    else {
      status.textContent = "";
      fault.textContent = error instanceof Problem ? error.message : t("fault.offline", "The server cannot be reached.");
      if (error.retryAfter) fault.append(" ", t("fault.retry", "Again in {seconds} s.", { seconds: error.retryAfter }));
      if (error.status === 401) fault.append(askForKey(t("key.label", "Key"), t("key.use", "Use this key"), () => form.requestSubmit()));
      fault.hidden = false;
    }
  } finally {
    clearInterval(countdown);
    if (running === own) { running = null; stop.hidden = true; answer.removeAttribute("aria-busy"); }
  }
});
stop.addEventListener("click", () => running?.abort());
$("prompt").addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit(); });

// Snippets with this server's address and the chosen model in them.
const quote = (text) => JSON.stringify(text);
const SNIPPETS = {
  curl: (url, model, prompt) => `curl ${url}/api/v1/generate \\\n  -H 'Content-Type: application/json' \\\n  -d '${JSON.stringify({ model, prompt }).replaceAll("'", "'\\''")}'`,
  "Python (openai)": (url, model, prompt) => `from openai import OpenAI\n\nclient = OpenAI(base_url="${url}/v1", api_key="none")\nanswer = client.chat.completions.create(\n    model=${quote(model)}, messages=[{"role": "user", "content": ${quote(prompt)}}]\n)\nprint(answer.choices[0].message.content)`,
  "Python (google-genai)": (url, model, prompt) => `from google import genai\n\nclient = genai.Client(api_key="none", http_options={"base_url": "${url}"})\nprint(client.models.generate_content(model=${quote(model)}, contents=${quote(prompt)}).text)`,
  JavaScript: (url, model, prompt) => `const response = await fetch("${url}/api/v1/generate", {\n  method: "POST",\n  body: JSON.stringify({ model: ${quote(model)}, prompt: ${quote(prompt)} }),\n});\nconsole.log((await response.json()).text);`,
};
let shown = "curl";
function showSnippet() {
  for (const tab of $("tabs").children) tab.setAttribute("aria-selected", String(tab.textContent === shown));
  $("snippet").textContent = SNIPPETS[shown](location.origin, $("model").value, $("prompt").value || "Why is the sky blue?");
}
for (const name of Object.keys(SNIPPETS)) $("tabs").append(h("button", { type: "button", role: "tab", "aria-controls": "snippet", onclick: () => { shown = name; showSnippet(); } }, name));
$("model").addEventListener("change", showSnippet);
$("prompt").addEventListener("input", showSnippet);
$("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText($("snippet").textContent);
  $("copy").textContent = t("first.copied", "Copied");
});

fetch("/", { headers: { Accept: "application/json" } }).then((it) => it.json()).then((here) => {
  for (const model of here.models) $("model").append(h("option", { value: model.name }, model.name));
  $("model").value = here.default_model;
  $("demo").hidden = !here.models.some((it) => it.demonstration);
  showSnippet();
}).catch(() => { fault.textContent = t("fault.offline", "The server cannot be reached."); fault.hidden = false; });
