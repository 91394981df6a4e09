// openapi-fetch, with the types that openapi-typescript generates from the description of the server.
// /// script
// dependencies = ["openapi-fetch", "openapi-typescript", "typescript@5", "@types/node"]
// ///

import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

import createClient from "openapi-fetch";

import { ANSWERS, KEY, URL as SERVER, check, main, same } from "./checks.mjs";

const headers = { Authorization: `Bearer ${KEY}` };
/** @type {import("openapi-fetch").Client<import("./openapi.js").paths>} */
const client = createClient({ baseUrl: SERVER, headers });
const { prompt, reviews, talk, texts, told } = ANSWERS;

/** @type {<T>(found: { data?: T, error?: unknown }) => T} */
function data(found) {
  if (found.error) throw new Error(JSON.stringify(found.error));
  return /** @type {any} */ (found.data);
}

function command(name, ...given) {
  const here = fileURLToPath(new URL(".", import.meta.url));
  try {
    execFileSync(`${here}/node_modules/.bin/${name}`, given, { cwd: here });
  } catch (error) {
    throw new Error(`${error.stdout}${error.stderr}`);
  }
}

check("types of each operation, with which this script is checked", async () => {
  const path = fileURLToPath(new URL("openapi.json", import.meta.url));
  writeFileSync(path, await (await fetch(`${SERVER}/openapi.json`, { headers })).text());
  command("openapi-typescript", path, "--output", "openapi.d.ts");
  const options = ["--allowJs", "--checkJs", "--noEmit", "--strictNullChecks", "--skipLibCheck"];
  command("tsc", ...options, "--module", "nodenext", "--target", "es2022", "openapi_typescript_client.mjs");
});

check("POST /predict, with a side of truncation", async () => {
  const body = { inputs: [[prompt]], model: "acme/reviews", truncation_direction: /** @type {const} */ ("Left") };
  const [found] = /** @type {{ label: string, score: number }[][]} */ (data(await client.POST("/predict", { body })));
  for (const { label, score } of found) same(Math.abs(score - reviews[label]) < 1e-5, true);
});

check("POST /classify", async () => {
  const body = { model: "acme/reviews", input: prompt };
  const [found] = data(await client.POST("/classify", { body })).data;
  same(reviews[found.label], Math.max(.../** @type {number[]} */ (Object.values(reviews))));
});

check("POST /v2/models/.../infer of a version", async () => {
  const params = { path: { client: "acme", task: "reviews", version: "1" } };
  const text = { name: /** @type {const} */ ("text"), datatype: /** @type {const} */ ("BYTES"), shape: [1] };
  const body = { inputs: [{ ...text, data: [prompt] }] };
  const path = "/v2/models/{client}/{task}/versions/{version}/infer";
  const found = data(await client.POST(path, { params, body }));
  same(typeof found === "object" && found.model_version, "1");
});

check("POST /bulk", async () => {
  const found = await client.POST("/bulk", {
    params: { query: { model: "acme/reviews" } },
    body: texts.map((text) => JSON.stringify({ text })).join("\n"),
    bodySerializer: (lines) => lines,
    headers: { "Content-Type": "application/x-ndjson" },
    parseAs: "text",
  });
  const lines = data(found).trim().split("\n");
  same(lines.filter((line) => "label" in JSON.parse(line)).length, texts.length);
});

check("POST /v1/completions", async () => {
  const body = { model: "acme/told", prompt, max_tokens: 60 };
  const found = data(await client.POST("/v1/completions", { body }));
  same("choices" in found && found.choices[0].text, told);
});

check("POST /v1/chat/completions", async () => {
  const messages = [{ role: /** @type {const} */ ("user"), content: prompt }];
  const body = { model: "acme/talk", messages, max_completion_tokens: 60 };
  const found = data(await client.POST("/v1/chat/completions", { body }));
  same("choices" in found && found.choices[0].message.content, talk);
});

check("the description of an error", async () => {
  const params = { path: { client: "acme", task: "none" } };
  const found = await client.GET("/v2/models/{client}/{task}", { params });
  same(found.response.status, 404);
  same(typeof found.error?.error, "string");
});

await main();
