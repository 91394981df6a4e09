"""The trl side of `train_text.py`, run by an interpreter that has trl: an `SFTTrainer` that takes one step a line.

    python sft_arm.py SETTINGS

SETTINGS is JSON. A line has the rows of a batch, each with its tokens and its labels; the answer has the seconds from
batch ready to step done, and the loss.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer, __version__


class SftArm:
    """An SFTTrainer brought to where its loop begins; `step` is one turn of that loop.

    given  `path` of the model, `lora`: settings of peft or None, `packed`: rows end to end instead of padded, `bf16`,
           `steps` of the whole training, `rate`, `decay`, `clip`, `seed`, `threads`
    """

    def __init__(self, given: dict[str, Any]) -> None:
        torch.set_num_threads(given["threads"])
        model = AutoModelForCausalLM.from_pretrained(given["path"], dtype=torch.float32, attn_implementation="sdpa")
        tokenizer = AutoTokenizer.from_pretrained(given["path"])
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        if given["lora"]:
            torch.manual_seed(given["seed"])
            model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **given["lora"]))
        arguments = SFTConfig(
            output_dir=tempfile.gettempdir(),  # nothing is written
            max_steps=given["steps"],
            learning_rate=given["rate"],
            weight_decay=given["decay"],
            max_grad_norm=given["clip"],
            lr_scheduler_type="linear",
            bf16=given["bf16"],
            padding_free=given["packed"],
            gradient_checkpointing=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            max_length=None,
            seed=given["seed"],
        )
        rows = Dataset.from_list([{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}] * 2)
        trainer = SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
        # As Trainer._prepare_for_training does on one device.
        trainer.create_optimizer()
        self.model, trainer.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
        trainer.create_scheduler(num_training_steps=given["steps"])
        trainer.current_gradient_accumulation_steps = 1
        self.trainer = trainer
        self.model.zero_grad()
        self.model.train()

    def step(self, rows: list[list[list[int]]]) -> tuple[float, float]:
        """As Trainer._run_epoch does for one batch, less its callbacks and logging; padding is not counted."""
        trainer, model = self.trainer, self.model
        batch = trainer.data_collator([{"input_ids": tokens, "labels": labels} for tokens, labels in rows])
        (inputs,), count = trainer.get_batch_samples(iter([batch]), 1, torch.device("cpu"))
        ready = time.perf_counter()
        loss = trainer.training_step(model, inputs, count)
        trainer.accelerator.clip_grad_norm_(model.parameters(), trainer.args.max_grad_norm)
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
        model.zero_grad()
        value = float(loss)
        return time.perf_counter() - ready, value


def peak() -> int:
    """The largest resident memory of this process, in bytes."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def main() -> None:
    """Serve."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    arm = SftArm(json.loads(sys.argv[1]))
    print(json.dumps({"version": __version__}), flush=True)
    for line in sys.stdin:
        seconds, loss = arm.step(json.loads(line))
        print(json.dumps({"seconds": seconds, "loss": loss, "rss_peak": peak()}), flush=True)


if __name__ == "__main__":
    main()
