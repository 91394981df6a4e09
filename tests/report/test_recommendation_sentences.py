"""Sentences of a recommendation whose figures on the held-out texts look as if they contradicted the choice."""

from __future__ import annotations

import numpy as np
import pytest

from afina.data.reading_options import ReadingOptions
from afina.report import recommendation
from afina.stats.comparison import compare
from afina.studies.choosing.recommendation import Contender, Dropped, Recommendation
from afina.studies.runs.record import Prompting

TRAINED = {"seconds": 9.0, "steps": 40, "examples": 10, "total": 100, "trainable": 100, "key": "sha256:0"}


def made(right: dict[str, int], **given: object) -> Recommendation:
    """A recommendation of full fine-tuning, from the number of right answers of each contender on 100 texts."""
    scores = {name: np.arange(100)[None] < count for name, count in right.items()}
    contenders = [
        Contender(
            name=name,
            method=name,
            metrics={"accuracy": count / 100},
            **({"key": "sha256:1"} if name == "zero-shot" else TRAINED | {"adapter": f"adapters/{name}"}),
        )
        for name, count in right.items()
    ]
    facts: dict[str, object] = {"task": "a.csv", "data": ReadingOptions(), "backbone": "embedded", "dropped": {}}
    facts |= {"recommended": "full", "adapter": "adapters/full", "contenders": tuple(contenders)}
    facts |= {"train_examples": 300, "examples": 100, "minutes": 10.0, "seconds": 590.0}
    return Recommendation(**(facts | {"comparisons": tuple(compare(scores))} | given))  # type: ignore[arg-type]


def why(one: Recommendation) -> str:
    """The sentence with the reason."""
    (found,) = [each for each in recommendation.sentences(one) if "Other methods on the held-out texts" in each]
    return found


def test_a_method_that_is_better_on_the_held_out_texts_only_by_chance_is_named_with_the_reason() -> None:
    found = why(made({"full": 80, "lora": 82, "zero-shot": 70}))
    assert found.startswith("Full fine-tuning was ")
    assert found.endswith(
        "LoRA is better on these texts, but not significantly. Only a significant difference on these texts would "
        "change the choice."
    )


def test_a_single_validation_text_is_not_called_the_validation_texts() -> None:
    one = made({"full": 80, "lora": 70})
    seen = [each.model_copy(update={"validation": 0.0, "validation_examples": 1}) for each in one.contenders]
    assert "was best on the only validation text, level with LoRA." in why(
        one.model_copy(update={"contenders": tuple(seen)})
    )


@pytest.mark.parametrize("right", [{"full": 82, "lora": 80}, {"full": 82, "lora": 82}])
def test_no_other_method_is_said_to_be_better_unless_one_is(right: dict[str, int]) -> None:
    assert "is better on these texts" not in why(made(right))


def test_with_few_texts_an_untrained_model_may_be_better_on_the_held_out_texts() -> None:
    found = why(made({"full": 80, "lora": 70, "zero-shot": 83}, train_examples=16))
    assert found.endswith(
        "Zero-shot is better on these texts, but full fine-tuning was better in recorded trainings with few labels."
    )


def test_verdicts_of_several_kinds_are_separated_by_semicolons() -> None:
    found = recommendation.sentences(made({"full": 80, "lora": 82, "ia3": 30, "head": 20}))
    assert any("is better than (IA)³ and head only; undecided against LoRA." in one for one in found), found


def test_a_method_that_was_trained_again_on_more_texts_than_its_rivals_is_said_beside_the_verdicts() -> None:
    one = made({"full": 80, "lora": 82})
    full, lora = one.contenders
    changed = one.model_copy(update={"contenders": (full.model_copy(update={"examples": 184}), lora)})
    said = "Not all methods were trained on the same texts: full fine-tuning on 184; LoRA on 10 texts."
    assert any(said in each for each in recommendation.sentences(changed))
    assert not any("the same texts" in each for each in recommendation.sentences(one))


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        (["lora-0.003-on-minilm"], "More minutes would also train LoRA at learning rate 0.003 on minilm"),
        (["zero-shot-on-embedded"], "More minutes would also try zero-shot on embedded"),
        (["head", "zero-shot-16-shots"], "also try head only and zero-shot with 16 examples in the prompt"),
    ],
)
def test_a_method_that_trains_nothing_is_tried_and_not_trained(left_out: list[str], said: str) -> None:
    dropped = {name: Dropped(why="train") for name in left_out}
    assert said in recommendation.more_minutes(made({"full": 80}, dropped=dropped))


def test_held_out_texts_that_there_was_no_time_to_evaluate_are_said() -> None:
    part = made({"full": 80}, held_out=500, data=ReadingOptions(evaluation_examples=100))
    assert "evaluate on all 500 held-out texts instead of 100" in recommendation.more_minutes(part)
    assert recommendation.evidence(part).notes[0].startswith("Figures are of 100 of the 500 held-out texts. ")
    whole = made({"full": 80}, held_out=100, data=ReadingOptions(evaluation_examples=100))
    assert "evaluate on" not in recommendation.more_minutes(whole)
    assert recommendation.evidence(whole).notes[0].startswith("Figures are of 100 held-out texts. ")


def test_a_prompt_without_label_words_is_not_called_asking_in_words() -> None:
    words, plain = Prompting(template="{text}?", words={"a": (" a",)}), Prompting(template="{text}?")
    one = made({"full": 80, "lora": 70})
    full, lora = one.contenders
    changed = (full.model_copy(update={"ask": words}), lora.model_copy(update={"ask": plain}))
    notes = recommendation.evidence(one.model_copy(update={"contenders": changed})).notes
    assert 'Prompt without label words: texts stand in "{text}?".' in notes
    assert [each for each in notes if each.startswith("Asked in words")] == [
        'Asked in words: texts stand in "{text}?"; the head begins as the embeddings of words (a: " a").'
    ]


def test_the_headline_names_the_methods_that_may_be_as_good_and_each_share_has_its_interval() -> None:
    one = made({"full": 80, "lora": 82, "ia3": 30, "head": 20}, recommended="full")
    assert recommendation.headline(one) == "Use full fine-tuning: accuracy 0.80, undecided against LoRA"
    assert recommendation.sentences(one)[0] == (
        "Use full fine-tuning: accuracy 0.80 on 100 held-out texts, undecided against LoRA."
    )
    table = recommendation.evidence(one)
    assert [column.heading for column in table.columns][1:3] == ["Accuracy", "95 % of accuracy"]
    assert table.rows[0][:3] == ("full fine-tuning", "0.8000", "0.7112 to 0.8666")
    many = made({"full": 80, "lora": 82, "ia3": 81, "head": 79, "prelayer": 78, "dora": 77})
    assert recommendation.headline(many).endswith(", undecided against LoRA, (IA)³, head only and 2 more")
    assert recommendation.headline(made({"full": 80, "ia3": 30})) == "Use full fine-tuning: accuracy 0.80"
