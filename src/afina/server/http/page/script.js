// Fetch and swap: what the server rendered takes the place of what stood there. No other script runs on this page.
"use strict";
const at = (id) => document.getElementById(id);
const form = at("ask"), key = at("key"), text = at("text"), figures = at("figures"), problem = at("problem");
const KEPT = "afina-key";

async function fetched(address, body) {
  const headers = { Authorization: `Bearer ${key.value.trim()}`, "Content-Type": "application/json" };
  const init = { headers, method: body ? "POST" : "GET", body, credentials: "omit", redirect: "error" };
  const response = await fetch(address, init);
  if (response.ok) return response.text();
  const refused = await response.json();
  if (response.status === 401) sessionStorage.removeItem(KEPT);
  throw new Error(refused.error);
}

function swap(target, html) {
  target.replaceChildren(...new DOMParser().parseFromString(html, "text/html").body.childNodes);
}

async function ask(event) {
  event.preventDefault();
  const into = at(form.dataset.into);
  problem.textContent = "";
  into.setAttribute("aria-busy", "true");
  try {
    swap(into, await fetched(form.action, JSON.stringify({ text: text.value })));
    sessionStorage.setItem(KEPT, key.value.trim());
    look();
  } catch (error) {
    into.replaceChildren();
    problem.textContent = error.message;
  } finally {
    into.setAttribute("aria-busy", "false");
  }
}

async function look() {
  if (document.hidden || !sessionStorage.getItem(KEPT)) return;
  try { swap(figures, await fetched(figures.dataset.from)); } catch { figures.replaceChildren(); }
}

form.addEventListener("submit", ask);
text.addEventListener("keydown", (event) => { if (event.key === "Enter" && event.ctrlKey) form.requestSubmit(); });
at("forget").addEventListener("click", () => { sessionStorage.removeItem(KEPT); location.reload(); });
setInterval(look, Number(figures.dataset.every));
key.value = sessionStorage.getItem(KEPT) || "";
(key.value ? text : key).focus();
look();
