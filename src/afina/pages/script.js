// The script of the studio. What a server rendered takes the place of what stood there before.
"use strict";
const at = (id) => document.getElementById(id);

async function responded(address, body, signal) {
  const headers = { "Content-Type": "application/json" };
  const response = await fetch(address, { method: "POST", headers, body, signal, redirect: "error" });
  if (response.ok) return response;
  const refused = await response.json().catch(() => ({ error: `no answer of the server (status ${response.status}).` }));
  throw new Error(refused.error.message ?? refused.error);
}

async function* events(response) { // of a stream of server-sent events, as JSON
  let rest = "";
  for (const reader = response.body.pipeThrough(new TextDecoderStream()).getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("the answer ended early. Ask again.");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines.map((one) => one.trim()).filter((one) => one.startsWith("data:"))) {
      const said = line.slice(5).trim();
      if (said === "[DONE]") return;
      yield JSON.parse(said);
    }
  }
}

async function write(article, prompt) { // streams the answer of one task into its place
  const of = (name) => article.querySelector(name), stop = new AbortController(), begun = performance.now();
  const tally = (said) => { of(".tally").textContent = `${said}${((performance.now() - begun) / 1000).toFixed(1)} s`; };
  const body = { model: article.dataset.model, prompt, stream: true, stream_options: { include_usage: true } };
  of(".stop").addEventListener("click", () => stop.abort());
  article.setAttribute("aria-busy", "true");
  try {
    const response = await responded(article.dataset.completions, JSON.stringify(body), stop.signal);
    of(".receipt code").textContent = response.headers.get("Afina-Receipt");
    of(".receipt").hidden = false;
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      for (const choice of event.choices) of(".written").append(choice.text);
      tally(event.usage ? `${event.usage.completion_tokens} tokens, ` : "");
    }
  } catch (error) {
    if (stop.signal.aborted) tally("stopped after ");
    else of(".problem").textContent = error.message;
  } finally {
    article.setAttribute("aria-busy", "false");
  }
}

function swap(target, html) {
  const focused = document.activeElement, link = target.contains(focused) && focused.getAttribute("href");
  target.replaceChildren(...new DOMParser().parseFromString(html, "text/html").body.childNodes);
  if (link) target.querySelector(`a[href="${link}"]`)?.focus({ preventScroll: true });
}

// An element with `data-events` shows the HTML of the last server-sent event; an event `end` loads the page anew,
// unless the page has `#again`: it is the answer to a form, which loading would send a second time.

function follow(target) {
  const source = new EventSource(target.dataset.events);
  source.addEventListener("message", (event) => swap(target, event.data));
  source.addEventListener("end", () => { source.close(); if (!at("again")) location.reload(); });
}

for (const target of document.querySelectorAll("[data-events]")) follow(target);

// An `output` shows the value of the slider that it is for, while the slider moves.

for (const output of document.querySelectorAll("output[for]")) {
  const slider = at(output.htmlFor.value);
  slider?.addEventListener("input", () => { output.value = `${slider.value} ${output.dataset.unit}`; });
}

// An element with `data-prompt` has articles whose answers are streamed as soon as the page is there.

for (const target of document.querySelectorAll("[data-prompt]"))
  for (const article of target.querySelectorAll("article[data-model]"))
    write(article, target.dataset.prompt);

// A key presses the button with this `data-key`, unless a field has the focus.

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.target.closest?.("input, textarea, select")) return;
  const button = document.querySelector(`button[data-key="${CSS.escape(event.key)}"]`);
  if (!button) return;
  for (const one of document.querySelectorAll("[data-key]")) one.removeAttribute("data-key"); // a form is sent once
  button.click();
});

// Entities are corrected: what is selected in the text gets the label of the button, in the JSON below it.

for (const place of document.querySelectorAll(".marking")) {
  const text = place.querySelector("textarea"), json = at("label");
  const points = (end) => Array.from(text.value.slice(0, end)).length; // characters, of which some are two units
  place.hidden = false;
  text.addEventListener("beforeinput", (event) => event.preventDefault()); // the keys of a readonly area select nothing
  for (const button of place.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      const start = points(text.selectionStart), end = points(text.selectionEnd), label = button.dataset.label;
      let known;
      try { known = JSON.parse(json.value || "[]"); } catch { known = []; }
      const kept = known.filter((one) => one.end <= start || end <= one.start);
      if (start < end) json.value = JSON.stringify([...kept, ...(label ? [{ start, end, label }] : [])].sort((a, b) => a.start - b.start));
    });
  }
}
