// Every text that a page shows, by language; `t` picks one. Pages are written in English, which stands without JavaScript.
const de = {
  "nav.first": "Start", "nav.explore": "Themen", "nav.console": "Betrieb", "nav.docs": "API",
  "skip": "Zum Inhalt", "foot": "Antworten eines Modells können falsch sein.",
  "first.title": "Was möchten Sie wissen?", "first.lead": "Ein Gateway vor Sprachmodellen: Es verbraucht eine Quote genau, die Dringenden kommen zuerst, und nichts wird zweimal bezahlt.",
  "first.demo": "Das eingebaute Modell dient der Vorführung: Es schreibt flüssig und irrt oft.",
  "first.prompt": "Ihre Frage", "first.model": "Modell", "first.priority": "Dringlichkeit", "first.ask": "Fragen", "first.stop": "Anhalten", "first.answer": "Antwort",
  "first.empty": "Die Antwort erscheint hier, sobald sie kommt.", "first.code": "Aus einem Programm", "first.copy": "Kopieren", "first.copied": "Kopiert", "first.more": "Mehr",
  "first.more.explore": "Themen als Karte erkunden", "first.more.console": "Sehen, wie die Quote verbraucht wird und wer wartet", "first.more.docs": "Die API, mit Beispielen",
  "priority.critical": "kritisch", "priority.high": "hoch", "priority.medium": "mittel", "priority.low": "niedrig",
  "wait.sent": "Gesendet …", "wait.place": "Platz {position} in der Schlange, noch etwa {eta} …", "wait.begun": "{model} antwortet …", "wait.reading": "Das Modell denkt nach … {seconds} s",
  "done.tokens": "{input} Token gelesen, {output} geschrieben", "done.waited": "{seconds} s gewartet", "done.target": "von {target}", "done.stopped": "Angehalten.",
  "cache.hit": "aus dem Speicher: {layer}", "cache.miss": "frisch", "cache.shared": "mit einer anderen Anfrage geteilt", "cache.stale": "älter, weil niemand frisch antwortet", "cache.bypass": "ohne Speicher", "cache.browser": "aus dem Browser", "cache.cdn": "aus dem CDN",
  "key.label": "Schlüssel", "key.use": "Diesen Schlüssel verwenden",
  "fault.offline": "Der Server ist nicht zu erreichen.", "fault.retry": "In {seconds} s wieder.", "fault.again": "Noch einmal versuchen",
  "explore.title": "Ein Thema erkunden", "explore.topic": "Thema", "explore.level": "Niveau", "explore.go": "Erkunden", "explore.image": "oder ein Bild", "explore.map": "Karte", "explore.pick": "Wählen Sie Teile der Karte; ein zweiter Druck auf „Weiter hinein“ öffnet einen Teil als eigenes Thema.",
  "explore.explain": "Auswahl erklären", "explore.deeper": "Weiter hinein", "explore.quiz": "Quiz", "explore.related": "Verwandtes", "explore.empty": "Geben Sie ein Thema ein, zum Beispiel „Licht“.", "explore.right": "Richtig.", "explore.wrong": "Nein: {answer}.", "explore.none": "Wählen Sie zuerst einen Teil der Karte.",
  "level.general": "allgemein", "level.beginner": "Anfang", "level.intermediate": "Mitte", "level.advanced": "fortgeschritten",
  "console.title": "Betrieb", "console.lead": "Wird die Quote gut verbraucht, und wer wartet?", "console.quota": "Quoten", "console.used": "verbraucht", "console.held": "gehalten", "console.free": "frei", "console.learnt": "gelernt", "console.resets": "leer in {time}", "console.unlimited": "Ohne Quote.",
  "console.queue": "Schlange", "console.nobody": "Niemand wartet.", "console.level": "Stufe", "console.waiting": "warten", "console.oldest": "längste", "console.eta": "erwartet", "console.tenants": "Mandanten", "console.target": "Ziel",
  "console.cache": "Speicher", "console.layer": "Schicht", "console.hits": "Treffer", "console.misses": "verfehlt", "console.rate": "Anteil", "console.saved": "gespart", "console.tokens": "{tokens} Token",
  "console.health": "Abhängigkeiten", "console.well": "Alles in Ordnung.", "console.live": "läuft", "console.lost": "Verbindung verloren; neuer Versuch …", "console.refused": "Abgelehnt", "console.settled": "Beendet", "console.provider429": "429 des Anbieters", "console.short": "knapp", "console.degraded": "Redis ist fort: Dieses Replikat verbraucht seinen Teil allein.",
};
const language = (navigator.languages || ["en"]).map((it) => it.slice(0, 2)).find((it) => it === "en" || it === "de") || "en";
const english = {};

/** Remember the page's own English texts, and put the reader's language in their place. */
export function translate(root = document) {
  for (const element of root.querySelectorAll("[data-t]")) {
    english[element.dataset.t] ??= element.textContent;
    if (language === "de" && de[element.dataset.t]) element.textContent = de[element.dataset.t];
  }
  document.documentElement.lang = language;
}

/** A text that is not in the page; `fallback` is the English one. `{name}` stands for values. */
export function t(key, fallback, values = {}) {
  const text = (language === "de" && de[key]) || fallback;
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}
