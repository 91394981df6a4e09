// LangChain.js, with chat completions, responses and completions.
// /// script
// dependencies = ["langchain", "@langchain/openai", "zod"]
// ///

import { ChatOpenAI, OpenAI } from "@langchain/openai";
import { createAgent, tool } from "langchain";
import { z } from "zod";

import { ANSWERS, KEY, URL, check, checkAgent, main, review, same, save } from "./checks.mjs";

const { prompt, told, talk } = ANSWERS;
const schema = z.object({ mood: z.enum(["angry", "calm"]), stars: z.union([z.literal(1), z.literal(2), z.literal(3)]) });
const to = { apiKey: KEY, configuration: { baseURL: `${URL}/v1` }, maxRetries: 0 };
const chat = (more = {}) => new ChatOpenAI({ model: "acme/talk", maxTokens: 60, ...to, ...more });

for (const [name, more] of Object.entries({ chat: {}, responses: { useResponsesApi: true } })) {
  check(`ChatOpenAI.invoke (${name})`, async () => {
    same((await chat(more).invoke(prompt)).text, talk);
  });

  check(`its own answer in the next request (${name})`, async () => {
    const said = await chat(more).invoke(prompt);
    await chat(more).invoke([["user", prompt], said, ["user", "And?"]]);
  });

  check(`ChatOpenAI.stream (${name})`, async () => {
    let text = "";
    for await (const one of await chat(more).stream(prompt)) text += one.text;
    same(text, talk);
  });

  for (const method of ["jsonSchema", "functionCalling"]) {
    check(`withStructuredOutput, ${method} (${name})`, async () => {
      const asked = chat({ ...more, maxTokens: 400 }).withStructuredOutput(schema, { name: "review", method });
      review(await asked.invoke(prompt));
    });
  }
}

check("ChatOpenAI.batch", async () => {
  const found = await chat().batch([prompt, prompt]);
  same(found.map((one) => one.text).join(), [talk, talk].join());
});

for (const [name, more] of Object.entries({ chat: {}, responses: { useResponsesApi: true } })) {
  checkAgent(`createAgent (${name})`, async (model) => {
    const tools = [tool(save, { name: "save", description: "Save a review.", schema })];
    const agent = createAgent({ model: chat({ ...more, model, maxTokens: 200 }), tools });
    return (await agent.invoke({ messages: [["user", prompt]] })).messages.at(-1).text;
  });
}

check("OpenAI.invoke (completions)", async () => {
  const llm = new OpenAI({ model: "acme/told", maxTokens: 60, temperature: 0, ...to });
  same(await llm.invoke(prompt), told);
});

await main();
