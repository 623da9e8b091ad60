"use strict";
// Everything that comes from the service is set as text: nothing of a question, passage or answer is read as HTML.

const $ = (id) => document.getElementById(id);
let key = sessionStorage.getItem("key") || "";

function element(name, text, className) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
}

class Problem extends Error {}

async function call(method, path, body, signal) {
  const headers = key ? { Authorization: "Bearer " + key } : {};
  const options = { method, headers, signal };
  if (body instanceof FormData) options.body = body;
  else if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The service does not answer.");
  }
  if (response.status === 401) $("key-form").hidden = false;
  if (response.status === 204) return null;
  if ((response.headers.get("Content-Type") || "").startsWith("text/event-stream")) return response;
  const content = await response.json().catch(() => ({}));
  if (!response.ok) {
    const again = response.headers.get("Retry-After");
    throw new Problem((content.detail || response.statusText) + (again ? `; try again in ${again} s` : ""));
  }
  return content;
}

// Characters as the service counts them are code points; JavaScript's strings are of UTF-16 units.
function passage(text, start, end) {
  const points = Array.from(text);
  const shown = element("p", undefined, "passage");
  if (start < 0 || end <= start) {
    shown.textContent = text;
    return shown;
  }
  shown.append(points.slice(0, start).join(""), element("mark", points.slice(start, end).join("")), points.slice(end).join(""));
  return shown;
}

function feedback(id, given) {
  const line = element("p", undefined, "quiet");
  const say = (helpful) => async () => {
    try {
      await call("POST", `/v1/answers/${id}/feedback`, { helpful });
      line.replaceChildren(helpful ? "You found this helpful." : "You found this not helpful.");
    } catch (error) {
      line.append(" ", element("span", error.message, "problem"));
    }
  };
  if (given) line.append(given.helpful ? "Found helpful. " : "Found not helpful. ");
  for (const [label, helpful] of [["Helpful", true], ["Not helpful", false]]) {
    const button = element("button", label, "plain");
    button.type = "button";
    button.addEventListener("click", say(helpful));
    line.append(button, " ");
  }
  return line;
}

function milliseconds(value) {
  return value === null || value === undefined ? "–" : value < 10 ? value.toFixed(1) + " ms" : Math.round(value) + " ms";
}

async function ask(event) {
  event.preventDefault();
  const question = $("question").value.trim();
  if (!question) return;
  const context = $("context").value.trim();
  const button = $("ask").querySelector("button");
  button.disabled = true;
  try {
    if ($("ask").dataset.completes === "true") return await complete(question);
    const reply = await call("POST", "/v1/answer", context ? { question, context } : { question });
    const card = element("article", undefined, "card");
    card.append(element("p", reply.answer || "No answer in this text.", "answer"));
    card.append(passage(reply.context, reply.start, reply.end));
    const stages = Object.entries(reply.milliseconds).filter(([name]) => name !== "total");
    const told = [
      reply.source,
      `score ${reply.score.toFixed(2)}`,
      `${milliseconds(reply.milliseconds.total)}${reply.cached ? ", from the cache" : ""}`,
      reply.variant,
    ];
    const line = element("p", told.filter(Boolean).join(" · "), "quiet");
    line.title = stages.map(([name, value]) => `${name} ${milliseconds(value)}`).join(", ");
    card.append(line, feedback(reply.id, null));
    $("result").replaceChildren(card);
  } catch (error) {
    $("result").replaceChildren(element("p", error.message, "problem"));
  } finally {
    button.disabled = false;
    $("question").select();
  }
}

let lastPassage = 0;
async function morePassages(anew) {
  if (anew) {
    lastPassage = 0;
    $("passages").replaceChildren();
  }
  const page = await call("GET", `/v1/passages?after=${lastPassage}&limit=20`);
  for (const one of page.passages) {
    lastPassage = one.id;
    const item = element("li");
    item.append(element("strong", one.source), passage(one.text, -1, -1));
    const remove = element("button", "Remove", "plain");
    remove.type = "button";
    remove.setAttribute("aria-label", `Remove passage ${one.id} of ${one.source}`);
    remove.addEventListener("click", async () => {
      try {
        await call("DELETE", `/v1/passages/${one.id}`);
        item.remove();
      } catch (error) {
        item.append(element("p", error.message, "problem"));
      }
    });
    item.append(remove);
    $("passages").append(item);
  }
  $("more-passages").hidden = page.passages.length < 20;
}

async function add(event) {
  event.preventDefault();
  const file = $("file").files[0];
  const text = $("text").value.trim();
  $("added").className = "";
  try {
    let added;
    if (file) {
      const form = new FormData();
      form.append("file", file);
      added = await call("POST", "/v1/passages/file", form);
    } else if (text) {
      added = await call("POST", "/v1/passages", { text, source: $("source").value.trim() || "text" });
    } else {
      throw new Problem("Write a text or choose a file.");
    }
    $("added").textContent = `${added.ids.length} added.`;
    $("add").reset();
    await morePassages(true);
  } catch (error) {
    $("added").textContent = error.message;
    $("added").className = "problem";
  }
}

let lastAnswer = null;
async function moreHistory(anew) {
  if (anew) {
    lastAnswer = null;
    $("history").replaceChildren();
  }
  const page = await call("GET", "/v1/history?limit=20" + (lastAnswer ? `&before=${lastAnswer}` : ""));
  for (const one of page.answers) {
    lastAnswer = one.id;
    const item = element("li");
    item.append(element("p", one.question, "quiet"), element("p", one.answer || "No answer.", "answer"));
    const score = one.task === "causal-lm" ? [] : [`score ${one.score.toFixed(2)}`];
    const told = [new Date(one.answered_at).toLocaleString(), ...score, one.variant];
    item.append(element("p", told.join(" · "), "quiet"), feedback(one.id, one.feedback));
    $("history").append(item);
  }
  if (anew && !page.answers.length) $("history").append(element("li", "No questions yet.", "quiet"));
  $("more-history").hidden = page.answers.length < 20;
}

async function live() {
  try {
    const state = await call("GET", "/v1/status");
    const fleet = state.fleets[state.answering];
    completing(state.answering === "causal-lm");
    $("per-s").textContent = state.load.per_s.toFixed(1);
    $("p50").textContent = milliseconds(state.load.p50_ms);
    $("p99").textContent = milliseconds(state.load.p99_ms);
    $("waiting").textContent = Object.values(state.fleets).reduce((sum, one) => sum + one.waiting, 0);
    $("passage-count").textContent = `(${state.passages})`;
    $("serving").textContent = `${fleet.study}/${fleet.serving}`;
    const switches = fleet.variants.length < 2 ? "" : ` · switches: ${fleet.switches}`;
    $("objective").textContent = `· objective ${milliseconds(fleet.slo_ms)}${switches}${fleet.pinned === null ? "" : " · pinned"}`;
    $("front").toggleAttribute("hidden", fleet.variants.length < 2);
    $("front-note").textContent = fleet.variants.length < 2 ? "One model is loaded, so there is no front to move along." : "";
    if (fleet.variants.length > 1) drawFront(fleet);
    offerPins(fleet, state.answering);
  } catch (error) {
    $("serving").textContent = error.message;
  }
}

const VIEWS = { ask: () => $("question").focus(), passages: () => morePassages(true), history: () => moreHistory(true) };
async function view(name) {
  for (const button of document.querySelectorAll("nav button")) {
    if (button.dataset.view === name) button.setAttribute("aria-current", "page");
    else button.removeAttribute("aria-current");
    $("view-" + button.dataset.view).hidden = button.dataset.view !== name;
  }
  try {
    await VIEWS[name]();
  } catch (error) {
    $("view-" + name).append(element("p", error.message, "problem"));
  }
}

document.querySelectorAll("nav button").forEach((button) => button.addEventListener("click", () => view(button.dataset.view)));
$("ask").addEventListener("submit", ask);
$("add").addEventListener("submit", add);
$("more-passages").addEventListener("click", () => morePassages(false));
$("more-history").addEventListener("click", () => moreHistory(false));
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value.trim();
  sessionStorage.setItem("key", key);
  $("key-form").hidden = true;
  live();
});
document.addEventListener("keydown", (event) => {
  const typing = ["INPUT", "TEXTAREA"].includes(document.activeElement.tagName);
  if (event.key === "/" && !typing) {
    event.preventDefault();
    view("ask");
  } else if (event.key === "Escape" && document.activeElement === $("question")) $("question").value = "";
});
live();
setInterval(() => { if (!document.hidden) live(); }, 1000);
