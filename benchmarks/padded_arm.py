"""The usual alternative: transformers' Trainer, and peft for LoRA, on padded batches."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)
from transformers.integrations.liger import apply_liger_kernel

from afina import Backbone, meter
from afina import device as devices
from afina.data.tokenize import Encoded
from afina.methods.method import Method
from afina.training.settings import Training
from arm import BATCH_SIZE, CPU, EPOCHS, LENGTH, SEED, Watched
from sample import Batch


class TrainerArm:
    """A Trainer brought to where its loop begins; `step` is one turn of that loop.

    paper      the paper's recipe; else padded to the longest of the batch, and bf16 where the device computes it
    device     where the model trains
    attention  the name of transformers' attention
    liger      whether liger's kernels replace the model's layers
    """

    def __init__(
        self,
        backbone: Backbone,
        label_names: Sequence[str],
        method: Method,
        setting: Training,
        steps: int,
        *,
        paper: bool,
        device: torch.device = CPU,
        attention: str = "sdpa",
        liger: bool = False,
    ) -> None:
        torch.manual_seed(SEED)
        self.device, self.attention = device, attention
        model = self.opened(backbone, len(label_names), method)
        self.collate: Any = DataCollatorWithPadding(
            backbone.tokenizer,
            padding="max_length" if paper else "longest",
            max_length=min(LENGTH, backbone.longest) if paper else None,
        )
        arguments = self._arguments(
            learning_rate=setting.learning_rate or method.learning_rate,
            weight_decay=setting.weight_decay,
            max_grad_norm=setting.clip,
            bf16=not paper and devices.computes_bfloat16(device),
            use_cpu=device.type == "cpu",
            use_liger_kernel=liger,
        )
        self.trainer = trainer = Trainer(model=model, args=arguments, data_collator=self.collate)
        # As Trainer._prepare_for_training does on one device.
        if liger:
            apply_liger_kernel(trainer.model, None)
        trainer.create_optimizer()
        self.model, trainer.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
        trainer.create_scheduler(num_training_steps=steps)
        trainer.current_gradient_accumulation_steps = 1
        self.model.zero_grad()
        self.losses: list[float] = []
        self._dtype = Watched(self.model)

    def opened(self, backbone: Backbone, labels: int, method: Method) -> Any:
        """The model to train, with what the method adds."""
        model = AutoModelForSequenceClassification.from_pretrained(
            backbone.path,
            num_labels=labels,
            pad_token_id=backbone.tokenizer.pad_token_id,
            dtype=torch.float32,
            attn_implementation=self.attention,
        )
        return method.attach(model)

    @staticmethod
    def _arguments(**changes: Any) -> TrainingArguments:
        return TrainingArguments(
            output_dir=tempfile.gettempdir(),  # nothing is written
            per_device_train_batch_size=BATCH_SIZE,
            num_train_epochs=EPOCHS,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            seed=SEED,
            **changes,
        )

    @property
    def dtype(self) -> torch.dtype:
        """Seen in the first step."""
        return self._dtype.seen

    def step(self, batch: Batch) -> float:
        """As Trainer._run_epoch does for one batch, less its callbacks and logging; padding is not counted."""
        rows = [
            {"input_ids": row.tolist(), "attention_mask": [1] * len(row), "labels": int(label)}
            for row, label in zip(batch.rows, batch.labels, strict=True)
        ]
        trainer, model = self.trainer, self.model
        (inputs,), count = trainer.get_batch_samples(iter([self.collate(rows)]), 1, self.device)
        ready = meter.now()
        loss = trainer.training_step(model, inputs, count)
        trainer.accelerator.clip_grad_norm_(model.parameters(), trainer.args.max_grad_norm)
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
        model.zero_grad()
        value = loss.item()
        seconds = meter.now() - ready
        self.losses.append(value)
        return seconds


def grouped(encoded: Encoded, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """The batches of the first epoch that Trainer's own data loader makes under "group_by_length"."""
    rows = [{"input_ids": encoded[index].tolist()} for index in range(len(encoded))]
    arguments = TrainerArm._arguments(train_sampling_strategy="group_by_length", use_cpu=True)
    trainer = Trainer(
        model=torch.nn.Linear(1, 1),
        args=arguments,
        train_dataset=rows,  # type: ignore[arg-type]
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
    )
    torch.manual_seed(SEED)
    return [list(batch) for batch in trainer.get_train_dataloader().batch_sampler]
