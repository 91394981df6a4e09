// The package openai of Node.
// /// script
// dependencies = ["openai"]
// ///

import OpenAI from "openai";

import { ANSWERS, KEY, REVIEW, URL, check, main, review, same } from "./checks.mjs";

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: KEY, maxRetries: 0 });
const { prompt, told, talk } = ANSWERS;
const messages = [{ role: "user", content: prompt }];
const model = "acme/talk";

check("completions.create", async () => {
  const found = await client.completions.create({ model: "acme/told", prompt, max_tokens: 60 });
  same(found.choices[0].text, told);
});

check("chat.completions.create", async () => {
  const found = await client.chat.completions.create({ model, messages, max_tokens: 60 });
  same(found.choices[0].message.content, talk);
});

check("its own answer in the next request", async () => {
  const found = await client.chat.completions.create({ model, messages, max_tokens: 60 });
  const next = [...messages, found.choices[0].message, { role: "user", content: "And?" }];
  await client.chat.completions.create({ model, messages: next, max_tokens: 60 });
});

check("chat.completions.stream", async () => {
  const stream = client.chat.completions.stream({ model, messages, max_tokens: 60 });
  same((await stream.finalChatCompletion()).choices[0].message.content, talk);
});

check("chat.completions.parse", async () => {
  const response_format = { type: "json_schema", json_schema: { name: "review", schema: REVIEW, strict: true } };
  const found = await client.chat.completions.create({ model, messages, max_tokens: 400, response_format });
  review(JSON.parse(found.choices[0].message.content));
});

check("responses.create", async () => {
  same((await client.responses.create({ model, input: prompt, max_output_tokens: 60 })).output_text, talk);
});

check("responses.stream", async () => {
  const stream = client.responses.stream({ model, input: prompt, max_output_tokens: 60 });
  same((await stream.finalResponse()).output_text, talk);
});

check("models.list and models.retrieve", async () => {
  const names = [];
  for await (const one of client.models.list()) names.push(one.id);
  same(names.includes(model), true);
  same((await client.models.retrieve(model)).id, model);
});

await main();
