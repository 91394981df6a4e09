"""The arms of `gpu.py`: a process for each library, which measures its arms in turn and prints a line of JSON for each.

    python benchmarks/gpu_arms.py SIDE SETTINGS

Each library has its own process, because liger and unsloth change transformers' classes.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

import generate
import predict
import serve
import shapes
from afina import Backbone, meter
from afina import device as devices
from afina.data.tokenize import encode
from afina.errors import AfinaError
from afina.generating.generation import answers
from afina.methods import make
from afina.models.classifier import Classifier
from afina.models.decoding import Decoding
from afina.models.language_model import open_model
from afina.models.objective import Opening
from afina.predicting import predictor
from afina.training.settings import Training
from arm import SEED
from packed_arm import PackedArm
from sample import Batch

LABELS = ("bad", "good")
TRAINED = ("train LoRA", "train all weights")
METHODS = dict(zip(TRAINED, ("lora", "full"), strict=True))
STEPS = 1000
"""Steps of the whole training, the horizon of the learning rate's decay."""

NEEDS = {"flash": "flash_attn", "liger": "liger_kernel", "unsloth": "unsloth"}
"""By side, the package that it needs beside afina's own."""

AFINA, SDPA = "afina", "transformers"
SIDES: dict[str, dict[str, tuple[str, ...]]] = {
    AFINA: {
        **dict.fromkeys(TRAINED, ("afina",)),
        "predict": ("afina",),
        "generate": ("afina",),
        "serve": ("afina, many adapters", "afina, one merged"),
    },
    SDPA: {
        **dict.fromkeys(TRAINED, ("Trainer, SDPA", "Trainer, SDPA, similar lengths")),
        "predict": ("transformers, SDPA",),
        "generate": ("transformers, SDPA",),
        "serve": ("peft, many adapters", "transformers, one merged"),
    },
    "flash": {
        **dict.fromkeys(TRAINED, ("Trainer, flash attention", "Trainer, flash attention, similar lengths")),
        "predict": ("transformers, flash attention",),
        "generate": ("transformers, flash attention",),
    },
    "liger": dict.fromkeys(TRAINED, ("Trainer, liger", "Trainer, liger, similar lengths")),
    "unsloth": {TRAINED[0]: ("unsloth", "unsloth, similar lengths")},
}
"""By side, the arms of each section."""

Work = tuple[Callable[[], int | None], int]
"""A call to measure, and its number of tokens or texts; a call that returns a number did that many."""


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    seconds  of an arm, after a warm-up; every call of an arm is measured once at least
    batch    texts of a training step
    rows     sequences that are generated together
    """

    shape: str
    backbone: str
    adapters: str
    device: str
    seconds: float
    batch: int = 32
    batches: int = 6
    predicted: int = 512
    prompts: int = 128
    rows: int = 64
    new: int = 64
    adapter_count: int = 32


def wait(device: torch.device) -> None:
    """Wait until the device has computed what was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measured(work: Sequence[Work], seconds: float, device: torch.device) -> dict[str, Any]:
    """The speed: the work of all calls, divided by the sum of their median times."""
    for call, _ in work[:2]:
        call()  # compiles kernels, and reserves memory
    wait(device)
    times: list[list[float]] = [[] for _ in work]
    done = [amount for _, amount in work]
    began = meter.now()
    while not times[-1] or meter.now() - began < seconds:
        for place, (call, _) in enumerate(work):
            if times[-1] and meter.now() - began > seconds:
                break
            start = meter.now()
            found = call()
            wait(device)
            times[place].append(meter.now() - start)
            done[place] = done[place] if found is None else found
    spent = sum(map(median, times))
    return {"speed": sum(done) / spent, "seconds": spent, "repeats": min(map(len, times))}


class Measurement:
    """What all arms of a process share: the texts, and the device."""

    def __init__(self, settings: Settings, side: str) -> None:
        self.settings, self.side, self.device = settings, side, torch.device(settings.device)
        self.backbone = Backbone.load(settings.backbone)
        self.dtype = devices.precision("auto", self.device) if self.device.type != "cpu" else torch.float32
        self.attention = "flash_attention_2" if side == "flash" else "sdpa"

    def batches(self, *, alike: bool) -> list[Batch]:
        """The batches of training: of texts in any order, or of texts of similar length."""
        count = self.settings.batch * self.settings.batches
        texts = shapes.texts(self.settings.shape, count, SEED)
        if alike:
            texts.sort(key=lambda text: text.count(" "))
        encoded = encode(self.backbone.tokenizer, texts, max_length=shapes.LONGEST)
        labels = np.random.default_rng(SEED).integers(0, 2, count)
        size = self.settings.batch
        return [Batch.of(encoded, labels, range(start, start + size)) for start in range(0, count, size)]

    def prompts(self) -> list[np.ndarray]:
        """Prompts of random tokens."""
        texts = shapes.texts(self.settings.shape, self.settings.prompts, SEED + 1, most=128)
        encoded = encode(self.backbone.tokenizer, texts, max_length=shapes.LONGEST)
        return [encoded[index] for index in range(len(encoded))]

    def training(self, section: str) -> Iterator[list[Work]]:
        """The steps of each arm of a section."""
        method = make(METHODS[section]).for_family(self.backbone.family)
        if self.side == AFINA:
            ours = PackedArm(self.backbone, LABELS, method, Training(), STEPS, device=self.device)
            yield [(lambda batch=one: self._step(ours, batch), one.tokens) for one in self.batches(alike=False)]
            return
        from padded_arm import TrainerArm

        kind = unsloth_arm() if self.side == "unsloth" else TrainerArm
        given = {"device": self.device, "attention": self.attention, "liger": self.side == "liger"}
        theirs = kind(self.backbone, LABELS, method, Training(), STEPS, paper=False, **given)
        for alike in (False, True):
            yield [(lambda batch=one: self._step(theirs, batch), one.tokens) for one in self.batches(alike=alike)]

    def _step(self, arm: Any, batch: Batch) -> None:
        arm.step(batch)

    def predicting(self) -> Iterator[list[Work]]:
        """Texts to labels, with tokenization."""
        texts = shapes.texts(self.settings.shape, self.settings.predicted, SEED + 2)
        tokenizer, backbone = self.backbone.tokenizer, self.backbone
        tokens = int(encode(tokenizer, texts, max_length=shapes.LONGEST).lengths.sum())
        if self.side == AFINA:
            classifier = Classifier.open(backbone, LABELS, SEED).to(self.device)
            if self.dtype != torch.float32:
                classifier.lower(self.dtype)
            yield [(lambda: self._logits(classifier, texts), tokens)]
            return
        plain = predict.reference(Classifier.open(backbone, LABELS, SEED), backbone, LABELS, self.attention)
        plain = plain.to(self.device, self.dtype)
        yield [(lambda: self._padded(plain, texts), tokens)]

    def _logits(self, classifier: Classifier, texts: list[str]) -> None:
        predictor.logits(classifier, encode(self.backbone.tokenizer, texts, max_length=shapes.LONGEST))

    def _padded(self, plain: Any, texts: list[str]) -> None:
        predict.padded(plain, self.backbone.tokenizer, texts, shapes.LONGEST, sort=True)

    def generating(self) -> Iterator[list[Work]]:
        """Prompts to greedy answers of the largest length."""
        settings, prompts, end = self.settings, self.prompts(), int(self.backbone.tokenizer.eos_token_id)
        if self.side == AFINA:
            model = open_model(self.backbone, ("text",), SEED, Opening("", "language_model")).to(self.device).eval()
            if self.dtype != torch.float32:
                model.lower(self.dtype)
            decoding, rows = Decoding(max_new_tokens=settings.new), settings.rows
            yield [(lambda: sum(len(one.tokens) for one in answers(model, prompts, decoding, [end], rows=rows)), 0)]
            return
        from transformers import AutoModelForCausalLM

        plain = AutoModelForCausalLM.from_pretrained(
            self.backbone.path, dtype=self.dtype, attn_implementation=self.attention
        )
        plain = plain.to(self.device).eval()
        given = end, settings.rows, settings.new
        yield [(lambda: sum(map(len, generate.padded(plain, prompts, *given))), 0)]

    def serving(self) -> Iterator[list[Work]]:
        """A batch of 32 texts, each for another adapter or all for one, with tokenization."""
        count, dtype = self.settings.adapter_count, str(self.dtype).removeprefix("torch.")
        texts = shapes.texts(self.settings.shape, serve.BATCH, SEED + 3)
        which = [place % count for place in range(len(texts))]
        for name in ("mixed", "merged") if self.side == AFINA else ("peft", "padded"):
            answer = serve.prepare(name, self.backbone, Path(self.settings.adapters), count, dtype)
            yield [(lambda answer=answer: self._answer(answer, texts, which), len(texts))]
            del answer
            give_back()

    def _answer(self, answer: serve.Answer, texts: list[str], which: list[int]) -> None:
        answer(texts, which)

    def section(self, name: str) -> Iterator[list[Work]]:
        """The work of each arm of a section."""
        kinds = {"predict": self.predicting, "generate": self.generating, "serve": self.serving}
        return kinds[name]() if name in kinds else self.training(name)


def give_back() -> None:
    """Free what an arm held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def unsloth_arm() -> Any:
    """TrainerArm on unsloth's model; unsloth is imported first, because it changes transformers."""
    from unsloth import FastModel

    from padded_arm import TrainerArm

    class Arm(TrainerArm):
        def opened(self, backbone: Backbone, labels: int, method: Any) -> Any:
            from transformers import AutoModelForSequenceClassification

            model, _ = FastModel.from_pretrained(
                str(backbone.path),
                auto_model=AutoModelForSequenceClassification,
                num_labels=labels,
                max_seq_length=shapes.LONGEST,
                load_in_4bit=False,
            )
            model.config.pad_token_id = backbone.tokenizer.pad_token_id
            made = method.hyperparameters
            given = {"r": made["r"], "lora_alpha": made["alpha"], "lora_dropout": made["dropout"]}
            return FastModel.get_peft_model(model, target_modules=["q_proj", "v_proj"], task_type="SEQ_CLS", **given)

    return Arm


def lines(side: str, settings: Settings) -> Iterator[dict[str, Any]]:
    """A measurement for each arm of a side, or the error that ended it."""
    measurement = Measurement(settings, side)
    for section, arms in SIDES[side].items():
        left = list(arms)
        works = measurement.section(section)
        try:
            while left:
                clock = meter.Meter(measurement.device)
                with clock.phase("train"):  # whose peak of memory the meter keeps
                    found = measured(next(works), settings.seconds, measurement.device)
                yield {"section": section, "arm": left.pop(0), "peak": clock.allocated_peak, **found}
        except (AfinaError, RuntimeError, ImportError, ValueError, TypeError, AttributeError, KeyError) as error:
            said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:160]
            yield from ({"section": section, "arm": arm, "note": said} for arm in left)
        del works
        give_back()


def main() -> None:
    """Measure."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for line in lines(sys.argv[1], Settings(**json.loads(sys.argv[2]))):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
