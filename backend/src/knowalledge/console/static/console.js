import { Problem, askForKey, duration, h, number, stream } from "./api.js";
import { t, translate } from "./texts.js";

translate();
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const LEVELS = ["critical", "high", "medium", "low"];
const ROUND = 2 * Math.PI * 40;

function arc(kind, from, part) {
  const circle = document.createElementNS(SVG, "circle");
  const values = { class: kind, cx: 50, cy: 50, r: 40, fill: "none", "stroke-width": 12, "stroke-dasharray": `${part * ROUND} ${ROUND}`, "stroke-dashoffset": -from * ROUND, transform: "rotate(-90 50 50)" };
  for (const [key, value] of Object.entries(values)) circle.setAttribute(key, value);
  return circle;
}

function ring(row) {
  const used = Math.min(1, (row.used - row.reserved) / row.limit), held = Math.min(1 - used, row.reserved / row.limit);
  const share = Math.round((row.used / row.limit) * 100);
  const svg = document.createElementNS(SVG, "svg"), text = document.createElementNS(SVG, "text");
  svg.setAttribute("viewBox", "0 0 100 100"); svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${row.window}: ${share}%`);
  text.setAttribute("x", 50); text.setAttribute("y", 50); text.textContent = `${share}%`;
  svg.append(arc("rest", 0, 1), arc("used", 0, Math.max(0, used)), arc("held", Math.max(0, used), Math.max(0, held)), text);
  const marks = [];
  if (row.learnt) marks.push(h("span", { class: "badge" }, t("console.learnt", "learnt")));
  if (share >= 95) marks.push(h("span", { class: "badge warn" }, t("console.short", "short")));
  return h("div", { class: "ring" }, svg, h("h3", {}, row.window),
    h("div", { class: "small" }, `${number(Math.round(row.used))} / ${number(Math.round(row.limit))}`),
    h("div", { class: "small quiet" }, row.resets_in_s > 0 ? t("console.resets", "empty in {time}", { time: duration(row.resets_in_s) }) : "\u00a0"), ...marks);
}

function quota(targets) {
  const cards = Object.entries(targets).map(([name, target]) => h("article", { class: "card" }, h("h3", {}, name),
    h("div", { class: "rings" }, ...(target.windows.length ? target.windows.map(ring) : [h("p", { class: "quiet" }, t("console.unlimited", "No quota."))])),
    h("p", { class: "small quiet" }, [[t("console.settled", "Settled"), target.settled], [t("console.refused", "Refused"), target.refused], [t("console.provider429", "Provider's 429"), target.provider_429s]].map(([word, value]) => `${word} ${number(value)}`).join(" · "))));
  $("quota").replaceChildren(...cards);
}

function table(caption, heads, rows) {
  return h("div", { class: "scroll", tabindex: "0" }, h("table", {}, h("caption", {}, caption),
    h("thead", {}, h("tr", {}, ...heads.map((it, index) => h("th", { scope: "col", class: index ? "number" : null }, it)))),
    h("tbody", {}, ...rows.map((cells) => h("tr", {}, ...cells.map((it, index) => h(index ? "td" : "th", { class: index ? "number" : null, scope: index ? null : "row" }, it)))))));
}

function queue(targets) {
  const rows = [];
  for (const [name, levels] of Object.entries(targets)) for (const level of LEVELS) {
    const it = levels[level];
    if (!it || !it.waiting) continue;
    const tenants = Object.entries(it.tenants).map(([tenant, own]) => `${tenant} ${number(own.waiting ?? own)}`).join(", ");
    rows.push([name, t(`priority.${level}`, level), number(it.waiting), duration(it.oldest_s), duration(it.eta_s), tenants]);
  }
  if (!rows.length) { $("queue").replaceChildren(h("p", {}, t("console.nobody", "Nobody waits."))); return; }
  $("queue").replaceChildren(table(t("console.queue", "Queue"), [t("console.target", "Target"), t("console.level", "Level"), t("console.waiting", "waiting"), t("console.oldest", "longest"), t("console.eta", "expected"), t("console.tenants", "tenants")], rows));
}

function cache(stats) {
  const rows = Object.entries(stats.layers).map(([name, it]) => {
    const asked = it.hits + it.misses;
    return [name, number(it.hits), number(it.misses), asked ? `${Math.round((it.hits / asked) * 100)}%` : "–", it.saved ? t("console.tokens", "{tokens} tokens", { tokens: number(it.saved.input_tokens + it.saved.output_tokens) }) : "–"];
  });
  $("cache").replaceChildren(table(t("console.cache", "Caches"), [t("console.layer", "Layer"), t("console.hits", "hits"), t("console.misses", "misses"), t("console.rate", "share"), t("console.saved", "saved")], rows));
}

function health(reasons, degraded) {
  const said = degraded ? [t("console.degraded", "Redis is away: this replica spends its part alone."), ...reasons] : reasons;
  $("health").replaceChildren(...(said.length ? said.map((it) => h("p", { class: "fault" }, it)) : [h("p", {}, t("console.well", "All is well."))]));
}

function show(name, snapshot) {
  $("live").textContent = t("console.live", "live"); $("live").className = "badge";
  quota(snapshot.quota.targets); queue(snapshot.queue.targets); cache(snapshot.cache);
  health(snapshot.reasons, snapshot.quota.degraded);
}

async function follow() {
  try { await stream("/api/console/stream", null, {}, show); } catch (error) {
    if (error instanceof Problem && (error.status === 401 || error.status === 403)) {
      $("health").replaceChildren(h("div", { class: "fault", role: "alert" }, h("p", {}, error.message), askForKey(t("key.label", "Key"), t("key.use", "Use this key"), follow)));
      $("live").textContent = String(error.status);
      return;
    }
  }
  $("live").textContent = t("console.lost", "connection lost; trying again …"); $("live").className = "badge bad";
  setTimeout(follow, 2000);
}
follow();
