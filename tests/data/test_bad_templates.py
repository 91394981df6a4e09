"""Templates that cannot be used for a task whose answers are texts: each is an error in one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from afina import Run
from afina.data import prompts
from afina.data.prompts import chat_template, prompt_of, rendered_chat
from afina.data.reading_options import ReadingOptions
from afina.data.template import Template
from afina.errors import InvalidData, InvalidStudy
from afina.studies.planning.forecast_runs import encoded
from afina.studies.runs.spec import Ask
from afina.training.settings import Training
from fakes import Backbones, sentences, write_csv

COLUMNS = {"text": "mr", "label": "ref", "others": "id, date"}
PAIRS = {"text": "context", "text_pair": "question", "label": "answer"}
SAYS = "{{ '<' + message['role'] + '>' + message['content'] + eos_token }}"
EACH = f"{{% for message in messages %}}{SAYS}{{% endfor %}}"
START = "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
ANSWER = (
    "{{% for message in messages %}}{{% if message['role'] == 'assistant' %}}{{{{ message['content'] + eos_token }}}}"
    "{{% else %}}{}{{% endif %}}{{% endfor %}}"
)
TODAY = "{{ strftime_now('%d %b %Y') if strftime_now is defined else '1 Jan 2025' }}"


def told(error: pytest.ExceptionInfo[Any]) -> str:
    """The words of an error, which is one line."""
    said = str(error.value)
    assert "\n" not in said
    assert len(said) < 500
    return said


@pytest.mark.parametrize(
    ("asked", "columns", "part"),
    [
        ("", COLUMNS, "expected {text} once"),
        ("Describe this:", COLUMNS, "expected {text} once"),
        ("{text} {text}", COLUMNS, "expected {text} once"),
        ("{mr} and {text}", COLUMNS, "expected {text} once"),
        ("{mr}\n{mr}", COLUMNS, "expected {text} once"),
        ("{ref}", COLUMNS, "expected {text} once"),
        ("{MR}:", COLUMNS, "expected {text} once"),
        ("{mr}\n{date}", COLUMNS, "{date} is no column of the input"),
        ("{mr}\n{colour}:", COLUMNS, "{colour} is no column of the input"),
        ("{mr}: {ref}", COLUMNS, "{ref} is no column of the input"),
        ("{text}", PAIRS, "Add {text_pair}"),
        ("{context}", PAIRS, "Add {text_pair}"),
        ("{question}", PAIRS, "expected {text} once"),
        ("{context} {question} {question}", PAIRS, "{text_pair} at most once"),
        ("{mr} {text_pair}", COLUMNS, "Remove {text_pair}"),
        ("x" * 5000, COLUMNS, "expected {text} once"),
    ],
)
def test_a_template_that_cannot_be_used_is_told_in_a_line(
    asked: str, columns: dict[str, str], part: str, backbones: Backbones
) -> None:
    with pytest.raises(InvalidStudy) as error:
        prompt_of(asked, columns, pairs="text_pair" in columns, tokenizer=backbones.tokenizer("gpt2"))
    assert part in told(error)
    assert error.value.code == "template.invalid"


@pytest.mark.parametrize(
    ("text", "pair"), [("prompt", None), ("Prompt", "question"), ("mr", None), ("question", "prompt"), ("any", None)]
)
def test_words_or_a_line_break_separate_the_input_from_the_answer(
    text: str, pair: str | None, backbones: Backbones
) -> None:
    columns = {"text": text} | ({"text_pair": pair} if pair else {})
    made = prompt_of(None, columns, pairs=pair is not None, tokenizer=backbones.tokenizer("gpt2"))
    last = made.render("soup", "lamp" if pair else None).rpartition("lamp" if pair else "soup")[2]
    assert last.startswith("\n")
    assert last.endswith(":")


def test_other_braces_are_literal(backbones: Backbones) -> None:
    given = 'Fill {"name": 1, {} {3} { x }: {mr}'
    made = prompt_of(given, COLUMNS, pairs=False, tokenizer=backbones.tokenizer("gpt2"))
    assert made.render("soup {date}") == given.replace("{mr}", "soup {date}")


@pytest.fixture
def tokenizer(backbones: Backbones) -> Iterator[Any]:
    words = backbones.tokenizer("llama")
    yield words
    words.chat_template = None


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("", "the tokenizer has no chat template"),
        ("{{ raise_exception('Roles must\nalternate') }}", "it refuses a message: Roles must alternate"),
        ("{% for message in messages %}", "it refuses a message: Unexpected end of template"),
        ("{{ messages[3]['content'] }}", "it refuses a message:"),
        ("{{ 1 / 0 }}", "it refuses a message: division by zero"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "it refuses a message:"),
        ("{% for i in range(10 ** 9) %}x{% endfor %}", "it refuses a message: Range too big"),
        (ANSWER.format("hello"), "expected {text} once"),
        (ANSWER.format("{{ message['content'] * 2 }}"), "expected {text} once"),
        ("hello" + START, "does not continue a prompt with the answer"),
        (EACH.replace("+ eos_token", "") + START, "does not continue a prompt with the answer"),
        (EACH, "does not continue a prompt with the answer"),
        ("{{ strftime_now('%d %b %Y') }}" + EACH + START, "it writes the date into the prompt"),
    ],
)
def test_a_chat_template_that_cannot_be_used_is_told_in_a_line(source: str, part: str, tokenizer: Any) -> None:
    tokenizer.chat_template = source
    with pytest.raises(InvalidStudy) as error:
        chat_template(tokenizer, pairs=False)
    assert part in told(error)


def test_a_chat_template_with_a_date_of_its_own_writes_that_and_not_todays(tokenizer: Any) -> None:
    """As the template of Llama 3.2 does where the function of the date is missing."""
    tokenizer.chat_template = TODAY + EACH + START
    assert chat_template(tokenizer, pairs=False).render("soup").startswith("1 Jan 2025<user>soup")
    chat = rendered_chat(tokenizer, [{"role": "user", "content": "soup"}])
    assert chat == chat_template(tokenizer, pairs=False).render("soup")


def test_a_chat_template_that_does_not_end_is_given_up(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "SECONDS", 0.02)
    tokenizer.chat_template = (
        "{% for i in range(700) %}{% for j in range(700) %}{% if i * j < 0 %}x{% endif %}{% endfor %}{% endfor %}" * 9
    )
    with pytest.raises(InvalidStudy) as error:
        chat_template(tokenizer, pairs=False)
    assert "it is not rendered after 0.02 seconds" in told(error)


def run_of(backbones: Backbones, tmp_path: Path, template: str, length: int) -> Run:
    rows = [(text, " ".join(text.split()[:2])) for text, _ in sentences(40)]
    return Run(
        backbone=str(backbones.path("gpt2")),
        task=str(write_csv(tmp_path / "rows.csv", rows, ("text", "summary"))),
        method="lora",
        data=ReadingOptions(kind="text", label="summary"),
        ask=Ask(template=template),
        training=Training(max_length=length),
    )


@pytest.mark.parametrize(
    ("template", "length", "error", "code"),
    [
        ("{text} " + "and soup " * 40, 100, InvalidStudy, "template.invalid"),
        ("{text}", 8, InvalidData, "data.target-long"),
    ],
)
def test_a_template_that_leaves_no_room_is_told_in_a_line(
    template: str, length: int, error: type[Exception], code: str, backbones: Backbones, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        encoded(run_of(backbones, tmp_path, template, length))
    told(caught)
    assert caught.value.code == code  # type: ignore[attr-defined]


def test_a_template_is_never_a_format_string() -> None:
    assert Template("{text.__class__} {0} {text}").render("soup") == "{text.__class__} {0} soup"
