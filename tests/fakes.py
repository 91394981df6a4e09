"""Tiny random models of every family, a tokenizer trained here, and invented texts; nothing comes from a network."""

from __future__ import annotations

import csv
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from filelock import FileLock
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from afina import Backbone, Run
from afina.data.batch import Loader, MicroBatchLimits, Packed, pack
from afina.data.pairs import PairLoader
from afina.data.split import Split
from afina.data.token_cache import EncodedSplit
from afina.data.tokenize import Encoded, encode
from afina.events import Listener, ignore
from afina.methods import is_fitted
from afina.methods.attachment import attach
from afina.methods.method import Method
from afina.models.architectures import ARCHITECTURES
from afina.models.classifier import Classifier
from afina.models.objective import Objective
from afina.models.objectives import Classes
from afina.models.predictions import Predictions
from afina.predicting.predictor import logits
from afina.studies.choosing import floors
from afina.studies.choosing.floors import Floor
from afina.studies.runs.record import Record
from afina.studies.runs.spec import UNASKED
from afina.training import probe_fit
from afina.training.fit import Fit
from afina.training.recipe import Recipe
from afina.training.settings import Training
from vocabularies import (
    BAD,
    BATCH,
    BEGIN,
    END,
    FRAMES,
    GOOD,
    LONG,
    LONGEST,
    TEXTS,
    THINGS,
    TOKENIZERS,
    VOCABULARY,
    WINDOW,
    WITHOUT_BIAS,
    byte_pairs,
    sentences,
    tokenizer,
)

__all__ = [
    "BAD",
    "BATCH",
    "BEGIN",
    "CAUSAL",
    "ENCODERS",
    "END",
    "FRAMES",
    "GOOD",
    "LONG",
    "LONGEST",
    "OFTEN",
    "RESIZED",
    "SLOW",
    "TEXTS",
    "THINGS",
    "TOKENIZERS",
    "UNUSUAL",
    "VOCABULARY",
    "WINDOW",
    "WITHOUT_BIAS",
    "Backbones",
    "Runs",
    "changed",
    "configuration",
    "difference",
    "encoded",
    "family_of",
    "fit_of",
    "logits_of",
    "opened",
    "padded_logits",
    "predict",
    "randomise",
    "reference",
    "save",
    "sentences",
    "serves",
    "tokenizer",
    "write_csv",
]
"""With the names of `vocabularies` that tests take from here."""

CAUSAL = tuple(family for family, entry in ARCHITECTURES.items() if not entry.is_encoder)
SLOW = ("roberta", "xlm-roberta", "distilbert", "electra", "modernbert")
"""Families whose methods `make test-slow` tests. BERT stands for the encoders in every run."""
OFTEN = ("baseline", "full", "linear_probe", "lora", "prefix", "setfit")
"""Methods of which each is trained in another way. Laws that need a finished run of every method are slow tests for the
others."""
ENCODERS = tuple(family for family, entry in ARCHITECTURES.items() if entry.is_encoder)


def write_csv(path: Path, rows: Sequence[Sequence[object]], header: Sequence[str] = ("text", "label")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def configuration(family: str, dropout: float = 0.1, **changes: Any) -> Any:
    """Two layers of width 32, with whatever is special about the family turned on."""
    common = {"vocab_size": VOCABULARY, "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0}
    modern = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": LONGEST,
        "attention_dropout": dropout,
        "tie_word_embeddings": False,
    }
    old = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": LONGEST}
    old |= {"attn_pdrop": dropout, "embd_pdrop": dropout, "resid_pdrop": dropout}
    encoder = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": LONGEST,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    }
    after_padding = {"pad_token_id": 1, "max_position_embeddings": LONGEST + 2}
    special: dict[str, dict[str, Any]] = {
        "gpt2": old,
        "gptj": old | {"rotary_dim": 4, "tie_word_embeddings": False},
        "gpt_neox": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": LONGEST,
            "attention_dropout": dropout,
            "hidden_dropout": dropout,
            "tie_word_embeddings": False,
        },
        "llama": modern,
        "mistral": modern | {"sliding_window": WINDOW},
        "qwen2": modern,
        "qwen3": modern | {"head_dim": 12},
        "bert": encoder,
        "roberta": encoder | after_padding,
        "xlm-roberta": encoder | after_padding,
        "distilbert": {
            "dim": 32,
            "hidden_dim": 48,
            "n_layers": 2,
            "n_heads": 4,
            "max_position_embeddings": LONGEST,
            "dropout": dropout,
            "attention_dropout": dropout,
            "seq_classif_dropout": dropout,
        },
        "electra": encoder | {"embedding_size": 16},
        "modernbert": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": LONGEST,
            "local_attention": WINDOW,
            "global_attn_every_n_layers": 2,
            "pad_token_id": 0,
            "cls_token_id": 2,
            "sep_token_id": 3,
            **{f"{part}_dropout": dropout for part in ("attention", "embedding", "mlp", "classifier")},
        },
    }
    return AutoConfig.for_model(family, **(common | special[family] | changes))


UNUSUAL: dict[str, dict[str, Any]] = {
    "gpt2": {"scale_attn_by_inverse_layer_idx": True, "n_inner": 40, "activation_function": "relu"},
    "gptj": {"rotary_dim": 8, "n_layer": 1},
    "gpt_neox": {"use_parallel_residual": False, "attention_bias": False, "hidden_act": "gelu_new"},
    "llama": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4, "num_hidden_layers": 1},
    "mistral": {"sliding_window": None, "num_key_value_heads": 1},
    "qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "qwen3": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 0, "head_dim": 8},
    "bert": {"hidden_act": "gelu_new", "type_vocab_size": 1},
    "roberta": {"hidden_act": "relu", "type_vocab_size": 1},
    "xlm-roberta": {"num_attention_heads": 2},
    "distilbert": {"activation": "relu", "sinusoidal_pos_embds": True},
    "electra": {"embedding_size": 32, "type_vocab_size": 3},
    "modernbert": {"classifier_pooling": "mean", "norm_bias": True, "classifier_bias": True, "local_attention": 2},
}
"""Settings of each family that its models seldom have."""

RESIZED: dict[str, dict[str, Any]] = {
    "gpt2": {"n_inner": 72},
    "gptj": {"n_inner": 72},
    "gpt_neox": {"attention_bias": False},
    "llama": {"attention_bias": True, "mlp_bias": True, "head_dim": 20},
    "mistral": {"num_key_value_heads": 4, "head_dim": 4},
    "qwen2": {"num_key_value_heads": 1},
    "qwen3": {"attention_bias": True},
    "bert": {"type_vocab_size": 5},
    "roberta": {"type_vocab_size": 1},
    "xlm-roberta": {"intermediate_size": 72},
    "distilbert": {"hidden_dim": 72},
    "electra": {"embedding_size": 32},
    "modernbert": {"attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True},
}
"""Settings of each family that change the shape of its weights."""


def save(config: Any, words: PreTrainedTokenizerFast, path: Path, seed: int = 0) -> Path:
    """Random weights for `config`; norms and biases are random too, so that no parameter is idle."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        opener = getattr(transformers, ARCHITECTURES[config.model_type].language_model)
        model = opener.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(path)
    words.save_pretrained(path)
    return path


def serves(family: str, name: str) -> bool:
    """Whether the method of that key has a meaning for that tiny model."""
    if name in ("prompt", "prefix"):
        return ARCHITECTURES[family].takes_virtual_tokens
    if name == "zero-shot":
        return ARCHITECTURES[family].head.logits is None
    if name == "setfit":
        return ARCHITECTURES[family].is_encoder
    return (name != "prelayer-46080" or family == "gpt2") and (name != "bitfit" or family not in WITHOUT_BIAS)


def family_of(name: str) -> str:
    """GPT-2, or BERT for the method of that key if it has no meaning for GPT-2."""
    return "gpt2" if serves("gpt2", name) else "bert"


def reference(path: Path, classifier: Any, labels: int, pad: int | None) -> Any:
    """transformers' own classifier with its own attention, and the weights of an afina classifier before `attach`."""
    model = type(classifier.model).from_pretrained(
        path, num_labels=labels, dtype=torch.float32, pad_token_id=pad, attn_implementation="sdpa"
    )
    model.load_state_dict(classifier.model.state_dict())
    return model.eval()


def made_once(path: Path, make: Callable[[Path], object]) -> Path:
    """The file or directory at `path`, which `make` writes elsewhere where no worker of pytest has made it yet."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.exists():
                part = path.with_name(f"{path.name}.part")
                make(part)
                part.rename(path)
    return path


class Backbones:
    """Directories of tiny models, each built when the first worker of pytest asks for it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._tokenizers: dict[Callable[[], PreTrainedTokenizerFast], PreTrainedTokenizerFast] = {}

    def tokenizer(self, family: str) -> PreTrainedTokenizerFast:
        make = TOKENIZERS.get(family, byte_pairs)
        if make not in self._tokenizers:
            self._tokenizers[make] = make()
        return self._tokenizers[make]

    def path(self, family: str, *, dropout: float = 0.1, seed: int = 0) -> Path:
        path = self.root / f"{family}-{dropout}-{seed}"
        return made_once(path, lambda part: save(configuration(family, dropout), self.tokenizer(family), part, seed))


class Runs:
    """Finished runs on the toy task, each carried out when the first worker asks for it; read, never changed."""

    def __init__(self, root: Path, backbones: Backbones, task: str) -> None:
        self.root, self.backbones, self.task = root, backbones, task
        self._done: dict[str, Record] = {}

    def run(self, family: str, method: str, hyperparameters: Mapping[str, Any] | None = None, **changes: Any) -> Run:
        settings = {"max_steps": 6, "batch_size": 8, "dtype": "float32"}
        settings |= {} if is_fitted(method) else {"learning_rate": 5e-3}
        return Run(
            backbone=str(self.backbones.path(family)),
            task=self.task,
            method=method,
            hyperparameters=dict(hyperparameters or {}),
            training=Training(**(settings | changes)),
            ask=UNASKED,
        )

    def record(self, family: str, method: str) -> Record:
        key = f"{family}/{method}"
        if key not in self._done:
            path = made_once(self.root / f"{family}-{method}.pickle", partial(self._carry_out, family, method))
            self._done[key] = pickle.loads(path.read_bytes())
        return self._done[key]

    def _carry_out(self, family: str, method: str, path: Path) -> None:
        with FileLock(self.root / f"{family}.lock"):  # of its output directory
            path.write_bytes(pickle.dumps(self.run(family, method).execute(self.root / family)))

    def adapter(self, family: str, method: str) -> Path:
        """Its directory."""
        return self.root / family / self.record(family, method).adapter


def opened(backbone: Backbone, method: Method, seed: int = 0, labels: Sequence[str] = ("bad", "good")) -> Classifier:
    """A classifier with the method attached, ready to train."""
    classifier = Classifier.open(backbone, labels, seed)
    torch.manual_seed(seed)
    attach(classifier, method)
    return classifier


def encoded(backbone: Backbone, rows: Sequence[tuple[str, int]], taken: int = 0) -> tuple[Encoded, np.ndarray]:
    """Tokens and labels; `taken`, of a method, are not left to a text."""
    tokens = encode(backbone.tokenizer, [text for text, _ in rows], max_length=backbone.longest - taken)
    return tokens, np.array([label for _, label in rows])


def recipe(**changes: Any) -> Recipe:
    """A recipe of five steps; `changes` are fields of `Recipe` or of `Training`."""
    settings = {"steps": 5, "learning_rate": 1e-2, "weight_decay": 0.1, "clip": 1.0, "seed": 0} | changes
    own = {name: settings.pop(name) for name in Recipe.__dataclass_fields__ if name in settings}
    return Recipe(Training(**settings), **own)


def fit_of(
    classifier: Classifier,
    method: Method,
    data: tuple[Encoded, np.ndarray],
    *,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> Fit:
    """A training session on `data`, labels of two classes, at its start."""
    made, objective = recipe(**changes), Classes(("bad", "good"))
    loader = Loader(*data, BATCH, made.seed)
    if method.pairs is not None:
        loader = PairLoader.of(loader, method.pairs)
    return probe_fit.fit_of(method)(classifier, method, objective, loader, made, dtype)


def parts_of(limits: MicroBatchLimits, packed: Packed) -> list[Packed]:
    """The micro-batches of a batch; one within the limits is the batch itself."""
    return [part for _, part in packed.parts(limits.cut(packed.lengths))]


def changed(fit: Fit, loader: Loader | None = None, **changes: Any) -> Fit:
    """A session before its first step, with other batches or another recipe."""
    own = {name: changes.pop(name) for name in Recipe.__dataclass_fields__ if name in changes}
    training = fit.recipe.training.model_copy(update=changes)
    fit.loader, fit.recipe = loader or fit.loader, replace(fit.recipe, training=training, **own)
    fit.inputs = type(fit.inputs)(fit.classifier, fit.loader, fit.recipe)
    return fit


@torch.inference_mode()
def logits_of(classifier: Classifier, backbone: Backbone, texts: Sequence[str] = TEXTS) -> torch.Tensor:
    """Logits of texts in one batch, without dropout."""
    tokens = encode(backbone.tokenizer, texts, max_length=backbone.longest)
    return classifier.eval()(pack([tokens[index] for index in range(len(tokens))]))


def difference(found: Any, expected: Any) -> float:
    """The largest, relative to the scale of what is expected; of arrays or of tensors."""
    assert found.shape == expected.shape
    return float(abs(found - expected).max() / abs(expected).max())


@torch.inference_mode()
def padded_logits(model: Any, backbone: Backbone, texts: Sequence[str] = TEXTS) -> torch.Tensor:
    """Logits by the own forward of a model of transformers or peft, padded by the tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(backbone.path)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    batch = tokenizer(list(texts), padding=True, padding_side="right", return_tensors="pt")
    logits: torch.Tensor = model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return logits


@torch.no_grad()
def randomise(model: Any) -> None:
    """Give what trains random values, those of (IA)^3 around 1."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(torch.randn(parameter.shape) * 0.3 + ("ia3" in name))


def predict(classifier: Classifier, split: EncodedSplit, listen: Listener = ignore) -> Predictions:
    """A classifier's predictions for a split, as a run computes them."""
    return Predictions(logits(classifier, split.encoded, listen), split.labels)


def tfidf(train: Split, objective: Objective | None = None) -> Floor:
    """The baseline on TF-IDF features; by default of as many classes as the split has."""
    return floors.fit(train, objective or classes_of(train))[1]


def classes_of(train: Split) -> Objective:
    return Classes(tuple(map(str, range(int(train.labels.max()) + 1))))
