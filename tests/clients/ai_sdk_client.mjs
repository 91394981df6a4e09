// The AI SDK of Vercel, with its classes for OpenAI and for compatible servers.
// /// script
// dependencies = ["ai", "@ai-sdk/openai", "@ai-sdk/openai-compatible", "zod"]
// ///

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

import { ANSWERS, KEY, URL, check, checkAgent, main, review, same, save as saved } from "./checks.mjs";

const { prompt, told, talk } = ANSWERS;
const openai = createOpenAI({ baseURL: `${URL}/v1`, apiKey: KEY });
const compatible = createOpenAICompatible({
  name: "afina",
  baseURL: `${URL}/v1`,
  apiKey: KEY,
  supportsStructuredOutputs: true,
});
const schema = z.object({ mood: z.enum(["angry", "calm"]), stars: z.union([z.literal(1), z.literal(2), z.literal(3)]) });
const short = { maxOutputTokens: 60, maxRetries: 0, prompt };
const long = { maxOutputTokens: 400, maxRetries: 0, prompt };

const MODELS = {
  responses: openai("acme/talk"),
  chat: openai.chat("acme/talk"),
  compatible: compatible("acme/talk"),
};

for (const [name, model] of Object.entries(MODELS)) {
  check(`generateText (${name})`, async () => {
    same((await generateText({ model, ...short })).text, talk);
  });

  check(`streamText (${name})`, async () => {
    let failed;
    const found = streamText({ model, ...short, onError: ({ error }) => (failed = error) });
    let text = "";
    for await (const piece of found.textStream) text += piece;
    if (failed) throw failed;
    same(text, talk);
  });

  check(`an object (${name})`, async () => {
    review((await generateText({ model, ...long, output: Output.object({ schema }) })).output);
  });

  check(`a forced tool (${name})`, async () => {
    const save = tool({ description: "Save a review.", inputSchema: schema });
    const found = await generateText({ model, ...long, tools: { save }, toolChoice: "required" });
    same(found.toolCalls[0].toolName, "save");
    review(found.toolCalls[0].input);
  });
}

for (const [name, kind] of Object.entries({ responses: openai, chat: openai.chat, compatible })) {
  checkAgent(`steps with a tool (${name})`, async (model) => {
    const save = tool({ description: "Save a review.", inputSchema: schema, execute: saved });
    const providerOptions = { openai: { store: false } };
    const asked = { model: kind(model), tools: { save }, stopWhen: stepCountIs(3), providerOptions };
    return (await generateText({ ...long, maxOutputTokens: 200, ...asked })).text;
  });
}

check("generateText (completions)", async () => {
  same((await generateText({ model: openai.completion("acme/told"), ...short })).text !== "", true);
});

await main();
