import { Problem, askForKey, get, h, post } from "./api.js";
import { t, translate } from "./texts.js";

translate();
const $ = (id) => document.getElementById(id);
const COUNT = 8;
let asked = 0, picked = new Set(), current = null;

const parameters = () => new URLSearchParams(location.search);
const at = (topic, level) => `/explore?${new URLSearchParams({ topic, level })}`;
const api = (topic, view, values) => `/api/v1/topics/${encodeURIComponent(topic)}/${view}?${new URLSearchParams(values)}`;

function badge(place, source) {
  const words = { hit: "from the cache: {layer}", miss: "fresh", stale: "older, for want of a fresh one", browser: "from the browser", cdn: "from the CDN" };
  place.replaceChildren(h("span", { class: `badge ${source.status === "stale" ? "warn" : ""}`, "data-source": source.status }, t(`cache.${source.status}`, words[source.status], source)));
}

/** Show that something is asked, then what came of it; an answer to an older question is dropped. */
async function load(place, path, show) {
  const began = Date.now(), turn = asked;
  const text = h("span");
  place.replaceChildren(h("p", { class: "status", role: "status" }, h("span", { class: "spin", "aria-hidden": "true" }), text));
  const tell = () => { text.textContent = t("wait.reading", "The model is thinking … {seconds} s", { seconds: Math.round((Date.now() - began) / 1000) }); };
  tell();
  const timer = setInterval(tell, 1000);
  try {
    const answer = await get(path);
    if (turn === asked) show(answer);
  } catch (error) {
    if (turn !== asked) return;
    const said = error instanceof Problem ? error.message : t("fault.offline", "The server cannot be reached.");
    const again = h("button", { type: "button", onclick: () => load(place, path, show) }, t("fault.again", "Try again"));
    const cure = error.status === 401 ? askForKey(t("key.label", "Key"), t("key.use", "Use this key"), () => load(place, path, show)) : again;
    place.replaceChildren(h("div", { class: "fault", role: "alert" }, h("p", {}, said), cure));
  } finally { clearInterval(timer); }
}

function drawMap({ body, source }) {
  badge($("source"), source);
  const space = $("map"), svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 100 100"); svg.setAttribute("preserveAspectRatio", "none"); svg.setAttribute("aria-hidden", "true");
  const nodes = [h("button", { type: "button", class: "node centre", style: null, "data-x": 50, "data-y": 50, dir: "auto", disabled: true }, body.topic)];
  body.subtopics.slice(0, COUNT).forEach((part, index, all) => {
    const angle = (2 * Math.PI * index) / all.length - Math.PI / 2;
    const x = 50 + 38 * Math.cos(angle), y = 50 + 39 * Math.sin(angle);
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    for (const [key, value] of Object.entries({ x1: 50, y1: 50, x2: x, y2: y })) line.setAttribute(key, value);
    line.setAttribute("vector-effect", "non-scaling-stroke");
    svg.append(line);
    nodes.push(h("button", { type: "button", class: "node", dir: "auto", title: part.summary, "aria-pressed": "false", "data-x": x, "data-y": y, onclick: (event) => pick(event.currentTarget, part) }, part.title));
  });
  space.replaceChildren(svg, ...nodes);
  for (const node of nodes) { node.style.left = `${node.dataset.x}%`; node.style.top = `${node.dataset.y}%`; }
  $("tools").hidden = false;
}

function pick(node, part) {
  const on = node.getAttribute("aria-pressed") !== "true";
  node.setAttribute("aria-pressed", String(on));
  if (on) picked.add(part.title); else picked.delete(part.title);
  $("deeper").disabled = picked.size !== 1;
  $("explain").disabled = picked.size === 0;
}

function showExplanations({ body, source }) {
  const parts = body.explanations.map((it) => h("div", {}, h("h3", { dir: "auto" }, it.subtopic), h("p", { dir: "auto" }, it.explanation)));
  const mark = h("div", { class: "badges" });
  badge(mark, source);
  $("detail").replaceChildren(...parts, mark);
}

function showQuiz({ body }) {
  const questions = body.questions.map((question, number) => {
    const verdict = h("p", { class: "status", role: "status" });
    const options = question.options.map((option, index) => h("button", { type: "button", dir: "auto", onclick: () => {
      verdict.textContent = `${index === question.answer ? t("explore.right", "Right.") : t("explore.wrong", "No: {answer}.", { answer: question.options[question.answer] })} ${question.explanation}`;
    } }, option));
    return h("fieldset", { class: "card" }, h("legend", { dir: "auto" }, `${number + 1}. ${question.question}`), h("div", { class: "row" }, ...options), verdict);
  });
  $("detail").replaceChildren(...questions);
}

function showRelated({ body }) {
  const links = body.related.map((name) => h("li", {}, h("a", { href: at(name, current.level), dir: "auto", onclick: follow }, name)));
  $("related").replaceChildren(h("h2", {}, t("explore.related", "Related")), h("ul", { class: "chips" }, ...links));
}

function follow(event) {
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  go(event.currentTarget.getAttribute("href"));
}

function go(url) {
  if (url !== location.pathname + location.search) history.pushState(null, "", url);
  show();
}

/** The page is what its address says: back, forward and reload need nothing else. */
function show() {
  asked += 1; picked = new Set();
  const topic = parameters().get("topic") || "", level = parameters().get("level") || "general";
  current = { topic, level };
  $("topic").value = topic; $("level").value = level;
  $("detail").replaceChildren(); $("related").replaceChildren(); $("source").replaceChildren();
  $("tools").hidden = true; $("deeper").disabled = $("explain").disabled = true;
  document.title = topic ? `${topic} · Knowalledge` : "Knowalledge";
  if (!topic) { $("map").replaceChildren(h("p", { class: "quiet" }, t("explore.empty", "Enter a topic, for example “light”."))); return; }
  load($("map"), api(topic, "subtopics", { count: COUNT, level }), drawMap);
}

$("form").addEventListener("submit", (event) => { event.preventDefault(); go(at($("topic").value.trim(), $("level").value)); });
$("level").addEventListener("change", () => { if (current.topic) go(at(current.topic, $("level").value)); });
$("explain").addEventListener("click", () => load($("detail"), api(current.topic, "explanations", { level: current.level, subtopics: [...picked].map((it) => it.replaceAll(",", " ")).join(",") }), showExplanations));
$("deeper").addEventListener("click", () => { const [only] = picked; go(at(only, current.level)); });
$("quiz").addEventListener("click", () => load($("detail"), api(current.topic, "quiz", { count: 3, level: current.level }), showQuiz));
$("more").addEventListener("click", () => load($("related"), api(current.topic, "related", { count: COUNT }), showRelated));
$("image").addEventListener("change", async () => {
  const [file] = $("image").files;
  if (!file) return;
  $("detail").replaceChildren(h("p", { class: "status", role: "status" }, h("span", { class: "spin", "aria-hidden": "true" }), t("wait.sent", "Sent …")));
  try {
    const body = await post("/api/v1/topics/from-image", file);
    go(at(body.title || body.topic, current.level));
  } catch (error) {
    $("detail").replaceChildren(h("p", { class: "fault", role: "alert" }, error instanceof Problem ? error.message : t("fault.offline", "The server cannot be reached.")));
  } finally { $("image").value = ""; }
});
addEventListener("popstate", show);
show();
