"use strict";
// Where a language model answers, the question is a text that it goes on with; its pieces are shown as they come.

function completing(on) {
  if ($("ask").dataset.completes === String(on)) return;
  $("ask").dataset.completes = on;
  if (!on) return;
  document.title = document.querySelector("h1").textContent = "Completion";
  $("question-label").textContent = "Text to go on with";
  $("question").placeholder = "Press / to write";
  $("ask").querySelector("button").textContent = "Complete";
  $("own-text").hidden = true;
}

// Server-sent events of a response, as {event, data}.
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: (.*)/s, 2)));
      yield { event: fields.event || "message", data: fields.data };
    }
  }
}

async function complete(prompt) {
  const stopping = new AbortController();
  const card = element("article", undefined, "card");
  const text = element("p", undefined, "passage");
  const written = element("mark");
  const line = element("p", "…", "quiet");
  const stop = element("button", "Stop", "plain");
  stop.type = "button";
  stop.addEventListener("click", () => stopping.abort());
  text.append(prompt, written);
  card.append(text, line, stop);
  $("result").replaceChildren(card);
  try {
    const body = { prompt, max_tokens: 200, temperature: 0.7, top_p: 0.95, stream: true };
    const response = await call("POST", "/v1/completions", body, stopping.signal);
    for await (const { event, data } of eventsOf(response)) {
      if (data === "[DONE]") break;
      const content = JSON.parse(data);
      if (event === "error") throw new Problem(content.detail);
      const [choice] = content.choices;
      written.append(choice.text);
      if (choice.finish_reason === null) continue;
      const { first_token: first, total } = content.milliseconds;
      line.textContent = `first token ${milliseconds(first)} · ${milliseconds(total)} · ${content.model}`;
      card.append(feedback(content.answer, null));
    }
  } catch (error) {
    const [told, name] = error.name === "AbortError" ? ["Stopped.", "quiet"] : [error.message, "problem"];
    line.replaceWith(element("p", told, name));
  } finally {
    stop.remove();
  }
}
