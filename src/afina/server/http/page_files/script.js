// Fetch and swap: what the server rendered takes the place of what stood there. No other script runs on this page.
"use strict";
const at = (id) => document.getElementById(id);
const form = at("ask"), key = at("key"), text = at("text"), figures = at("figures"), problem = at("problem");
const KEPT = "afina-key";
let asked = 0, looking = false;

async function fetched(address, body) {
  const headers = { Authorization: `Bearer ${key.value.trim()}`, "Content-Type": "application/json" };
  const init = { headers, method: body ? "POST" : "GET", body, credentials: "omit", redirect: "error" };
  const response = await fetch(address, init);
  if (response.ok) return response.text();
  const refused = await response.json().catch(() => ({ error: `no answer of the server (status ${response.status}).` }));
  if (response.status === 401) sessionStorage.removeItem(KEPT);
  throw new Error(refused.error);
}

function swap(target, html) {
  const focused = document.activeElement, link = target.contains(focused) && focused.getAttribute("href");
  target.replaceChildren(...new DOMParser().parseFromString(html, "text/html").body.childNodes);
  if (link) target.querySelector(`a[href="${link}"]`)?.focus({ preventScroll: true });
}

async function ask(event) {
  event.preventDefault();
  const into = at(form.dataset.into), turn = ++asked; // an answer that comes after a later question is left alone
  problem.textContent = "";
  into.setAttribute("aria-busy", "true");
  try {
    const html = await fetched(form.action, JSON.stringify({ text: text.value }));
    if (turn !== asked) return;
    swap(into, html);
    sessionStorage.setItem(KEPT, key.value.trim());
    look();
  } catch (error) {
    if (turn !== asked) return;
    into.replaceChildren();
    problem.textContent = error.message;
  } finally {
    if (turn === asked) into.setAttribute("aria-busy", "false");
  }
}

async function look() {
  if (looking || document.hidden || !sessionStorage.getItem(KEPT)) return;
  looking = true;
  try { swap(figures, await fetched(figures.dataset.from)); } catch { figures.replaceChildren(); }
  looking = false;
}

form.addEventListener("submit", ask);
text.addEventListener("keydown", (event) => { if (event.key === "Enter" && event.ctrlKey) form.requestSubmit(); });
at("forget").addEventListener("click", () => { sessionStorage.removeItem(KEPT); location.reload(); });
setInterval(look, Number(figures.dataset.every));
key.value = sessionStorage.getItem(KEPT) || "";
(key.value ? text : key).focus();
look();
