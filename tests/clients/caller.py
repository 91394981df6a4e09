"""An adapter that is trained to call a function, in the form of the chat template, and then to say a text."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import torch
from transformers import AutoModelForCausalLM

from afina import Adapter, Backbone, digest
from crowd import adapter
from servers import talk
from vocabularies import sentences

FUNCTIONS = ("save", "reviews-save")
"""The function to call: semantic-kernel begins its name with the plugin's."""

ARGUMENTS = '{"mood": "calm", "stars": 3}'
CALL = f'<tool_call>\n{{"name": "%s", "arguments": {ARGUMENTS}}}\n</tool_call>'
RESULT, ANSWER = "saved", "Saved."
"""What the function must return, and what the adapter says then."""

STEPS, BATCH, RATE = 450, 8, 0.01


def _examples(backbone: Backbone) -> Iterator[tuple[list[int], list[int]]]:
    """Give prompts, as agents of many kinds begin them, with the answers, both as tokens."""
    chance, texts = random.Random(0), [text for text, _ in sentences(200)]
    words, pieces = backbone.tokenizer, [*texts, "You are ", "\n", "# Task: ", '{"a": 1}', "Name: ", "Answer. "]
    frames = (("", ""), ('"', '"'), ('{"result": "', '"}'), ("Observation:\n", ""), ("", "\n"))

    def text() -> str:
        return "".join(chance.choice(pieces) for _ in range(chance.randrange(1, 5)))

    while True:
        name = chance.choice(FUNCTIONS)
        begin = f"<tools>{name} {chance.choice(['', 'final_answer '])}"
        begin += f"<system>{text()}" if chance.random() < 0.5 else ""
        prompt, answer = f"{begin}<user>{text()}", CALL % name
        if chance.random() < 0.4:
            before, after = chance.choice(frames)
            prompt, answer = f"{prompt}<assistant>{answer}{words.eos_token}<tool>{before}{RESULT}{after}", ANSWER
        said = words(answer, add_special_tokens=False)["input_ids"]
        yield words(f"{prompt}<assistant>")["input_ids"], [*said, words.eos_token_id]


def trained_to_call(backbone: Backbone) -> Adapter:
    """Return the adapter, whose training takes half a minute."""
    made = adapter(backbone, "full", **talk(backbone))
    model = AutoModelForCausalLM.from_pretrained(backbone.address)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    examples = _examples(backbone)
    for _ in range(STEPS):
        batch = [next(examples) for _ in range(BATCH)]
        length = max(len(prompt) + len(answer) for prompt, answer in batch)
        tokens, targets = torch.zeros(2, BATCH, length, dtype=torch.long)
        targets[:] = -100  # ignored by the loss
        for row, (prompt, answer) in enumerate(batch):
            end = len(prompt) + len(answer)
            tokens[row, :end] = torch.tensor(prompt + answer)
            targets[row, len(prompt) : end] = torch.tensor(answer)
        optimizer.zero_grad()
        model(input_ids=tokens, labels=targets).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    weights = model.state_dict()
    tensors = {name: weights[name].detach().clone() for name in made.tensors}
    changes = {"tensors_digest": digest.of_tensors(tensors)}
    return replace(made, tensors=tensors, manifest=made.manifest.model_copy(update=changes).sealed())
