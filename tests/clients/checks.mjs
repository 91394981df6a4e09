// What the scripts for Node share. See checks.py.

export const URL = process.env.AFINA_URL;
export const KEY = process.env.AFINA_KEY;
export const ANSWERS = JSON.parse(process.env.AFINA_ANSWERS ?? "null");

export const REVIEW = {
  type: "object",
  properties: { mood: { enum: ["angry", "calm"] }, stars: { enum: [1, 2, 3] } },
  required: ["mood", "stars"],
  additionalProperties: false,
};

const checks = [];

export function check(what, run) {
  checks.push([what, run]);
}

const saved = [];

export function save(given) {
  saved.push(given);
  return "saved";
}

export function checkAgent(what, run) {
  check(`${what}, a model that was trained to call`, async () => {
    saved.length = 0;
    same(await run("acme/caller"), ANSWERS.caller);
    same(JSON.stringify(saved), JSON.stringify([ANSWERS.called]));
  });
  check(`${what}, a model that was not`, async () => {
    saved.length = 0;
    same((await run("acme/talk")) !== "" && saved.length === 0, true);
  });
}

export function same(found, expected) {
  if (found !== expected) throw new Error(`found ${JSON.stringify(found)}, expected ${JSON.stringify(expected)}`);
}

export function review(found) {
  same(JSON.stringify(Object.keys(found).sort()), '["mood","stars"]');
  same(["angry", "calm"].includes(found.mood) && [1, 2, 3].includes(found.stars), true);
}

export async function main() {
  for (const [what, run] of checks) {
    let problem = null;
    try {
      await run();
    } catch (error) {
      problem = `${error.name}: ${error.message}`.slice(0, 600);
    }
    console.log("\n" + JSON.stringify({ check: what, problem }));
  }
}
