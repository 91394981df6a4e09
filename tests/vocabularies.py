"""Invented texts, and tokenizers that are trained on them here."""

from __future__ import annotations

import random
from collections.abc import Callable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

END, BEGIN = "<|endoftext|>", "<|begin|>"
VOCABULARY = 320
LONGEST = 256
BATCH = 8
WINDOW = 12
"""Mistral's; far shorter than LONG, so that it cuts."""

WITHOUT_BIAS = {"llama", "mistral", "qwen3", "modernbert"}

GOOD = ("bright", "warm", "honest", "clever", "lovely")
BAD = ("dull", "cold", "clumsy", "tired", "sour")
THINGS = ("soup", "play", "lamp", "ferry", "novel", "garden", "quartet", "bicycle")
FRAMES = (
    "the {thing} was {word}.",
    "What a {word} {thing}!",
    "A {word} {thing}, and we stayed for hours; nobody had told us that it would be like that",
    "{word} {thing}",
    "Our {thing} turned out {word} in the end, said the neighbour.",
)

LONG = " ".join(f"On day {day} the {thing} kept us waiting" for day, thing in enumerate(THINGS))
TEXTS = (
    "a",
    LONG,
    "What a warm ferry!",
    "the novel was dull.",
    "Zoë’s café – naïve, 50 € … 日本",
    "bicycle",
    "   leading spaces and\na line break\t",
    "A clumsy quartet, and we stayed for hours; nobody had told us that it would be like that",
)
"""Among them a single token, one text much longer than the others, and characters outside ASCII."""


def sentences(count: int, seed: int = 0) -> list[tuple[str, int]]:
    """Distinct invented sentences and their labels, 1 where the word is a good one."""
    every = [
        (frame.format(thing=thing, word=word), int(word in GOOD))
        for frame in FRAMES
        for thing in THINGS
        for word in (*GOOD, *BAD)
    ]
    return random.Random(seed).sample(every, count)


def tokenizer(*, begin: bool) -> PreTrainedTokenizerFast:
    """Byte-level BPE; with `begin`, each text, also of a pair, starts with a token of its own, as LLaMA's do."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END, BEGIN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator([*(text for text, _ in sentences(200)), *TEXTS], trainer)
    inner.post_processor = processors.ByteLevel(trim_offsets=False)
    if begin:
        special = [(BEGIN, inner.token_to_id(BEGIN))]
        inner.post_processor = processors.TemplateProcessing(
            single=f"{BEGIN} $A", pair=f"{BEGIN} $A {BEGIN} $B", special_tokens=special
        )
    marks = {"eos_token": END, "bos_token": BEGIN if begin else END}
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=LONGEST, **marks)


def word_pieces() -> PreTrainedTokenizerFast:
    """WordPiece in lower case, with BERT's special tokens and the token types of pairs.

    The pieces are the words of the texts and single characters: tokenizers' trainer breaks ties, and numbers pieces,
    in another order in each process.
    """
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    normalizer, pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    texts = [*(text for text, _ in sentences(200)), *TEXTS]
    words = {word for text in texts for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text))}
    characters = set("".join(words))
    pieces = [*special.values(), "[MASK]", *sorted(words | characters | {f"##{each}" for each in characters})]
    inner = Tokenizer(models.WordPiece({piece: at for at, piece in enumerate(pieces)}, unk_token="[UNK]"))
    inner.add_special_tokens([*special.values(), "[MASK]"])
    inner.normalizer, inner.pre_tokenizer, inner.decoder = normalizer, pre_tokenizer, decoders.WordPiece()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(name, inner.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        model_max_length=LONGEST,
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **special,
    )


def byte_pairs_with_ends() -> PreTrainedTokenizerFast:
    """Byte-level BPE with RoBERTa's special tokens, two between the texts of a pair, and no token types."""
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[*special.values(), "<mask>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator([*(text for text, _ in sentences(200)), *TEXTS], trainer)
    ends = ("</s>", inner.token_to_id("</s>")), ("<s>", inner.token_to_id("<s>"))
    inner.post_processor = processors.RobertaProcessing(*ends, trim_offsets=False, add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        model_max_length=LONGEST,
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
        **special,
    )


def byte_pairs() -> PreTrainedTokenizerFast:
    return tokenizer(begin=False)


def byte_pairs_with_begin() -> PreTrainedTokenizerFast:
    return tokenizer(begin=True)


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    **dict.fromkeys(("llama", "mistral"), byte_pairs_with_begin),
    **dict.fromkeys(("bert", "distilbert", "electra", "modernbert"), word_pieces),
    **dict.fromkeys(("roberta", "xlm-roberta"), byte_pairs_with_ends),
}
"""Families that do not take `byte_pairs`."""
