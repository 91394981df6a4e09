// The package @huggingface/inference.
// /// script
// dependencies = ["@huggingface/inference"]
// ///

import { InferenceClient } from "@huggingface/inference";

import { ANSWERS, KEY, REVIEW, URL, check, main, review, same } from "./checks.mjs";

const { prompt, talk, reviews, places } = ANSWERS;
const chat = new InferenceClient(KEY, { endpointUrl: URL });
const messages = [{ role: "user", content: prompt }];
const model = "acme/talk";
const at = (name) => new InferenceClient(KEY, { endpointUrl: `${URL}/models/${name}` });
const rounded = (value) => Math.round(value * 1e5) / 1e5;

check("chatCompletion", async () => {
  const found = await chat.chatCompletion({ model, messages, max_tokens: 60 });
  same(found.choices[0].message.content, talk);
});

check("chatCompletionStream", async () => {
  let text = "";
  for await (const one of chat.chatCompletionStream({ model, messages, max_tokens: 60 })) {
    text += one.choices[0]?.delta.content ?? "";
  }
  same(text, talk);
});

check("response_format of chatCompletion", async () => {
  const response_format = { type: "json_schema", json_schema: { name: "review", schema: REVIEW, strict: true } };
  const found = await chat.chatCompletion({ model, messages, max_tokens: 400, response_format });
  review(JSON.parse(found.choices[0].message.content));
});

check("textClassification", async () => {
  const found = await at("acme/reviews").textClassification({ inputs: prompt });
  same(found.length, Object.keys(reviews).length);
  for (const { label, score } of found) same(rounded(score), reviews[label]);
});

check("tokenClassification", async () => {
  const parameters = { aggregation_strategy: "first" };
  const found = await at("acme/places").tokenClassification({ inputs: prompt, parameters });
  const read = found.map((one) => [one.start, one.end, one.entity_group, one.word, rounded(one.score)]);
  same(JSON.stringify(read), JSON.stringify(places));
});

await main();
