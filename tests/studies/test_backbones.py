"""Studies of several backbones: what a file may ask for, keys, runs in several processes, and what is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from afina import Study
from afina.errors import AfinaError, InvalidStudy, RunFailed, UnknownName
from afina.report.report import Report
from afina.studies import backbones, trials
from afina.studies.adapter_paths import find_adapter
from afina.studies.executors import by_name
from afina.studies.preset_methods import suited_to_backbones, suited_to_task
from afina.studies.results import Results
from afina.studies.runs.record import Record
from afina.studies.runs.run import Run
from afina.studies.trials import Trial, Tuned
from command import Command, HereExecutor, InventedExecutor
from fakes import Backbones as Models
from fakes import sentences, write_csv
from raises import raises
from scribe import Scribe


def study(**changes: Any) -> Study:
    content: dict[str, Any] = {"name": "mine", "backbones": ["gpt2", "llama"], "task": "sst2", "methods": {"lora": {}}}
    return Study.parse({**content, **changes}, "study")


# What a file asks for


@pytest.mark.parametrize(
    ("addresses", "names"),
    [
        (["embedded", "org/name@main", "random:/models/tiny gpt"], ["embedded", "name", "tiny-gpt"]),
        (["a/model", "b/model", "./model/"], ["a-model", "b-model", "model"]),
        (["org/m@one", "org/m@two"], ["org-m-one", "org-m-two"]),
        (["/models/gpt", "random:/models/gpt"], ["models-gpt", "random-models-gpt"]),
        (["/m", "m", "m-2"], ["m", "m-2", "m-2-2"]),
        (["."], ["backbone"]),
    ],
)
def test_each_backbone_has_a_name_of_its_own(addresses: list[str], names: list[str]) -> None:
    assert list(backbones.backbone_names(addresses).values()) == names


def test_every_method_runs_on_every_backbone_or_on_those_of_its_table() -> None:
    methods = {
        "zero-shot": {"backbones": ["gpt2"]},
        "full": {"learning_rate": 1e-4, "by_backbone": {"llama": {"learning_rate": 3e-5, "epochs": 1}}},
        "lora": {"r": 8, "by_backbone": {"gpt2": {"r": 2}}},
    }
    runs = study(methods=methods, seeds=[0, 1], sizes=[8, 16]).runs()
    assert [(run.seed, run.data.train_examples, run.backbone, run.title) for run in runs] == [
        (seed, size, backbone, method)
        for seed in (0, 1)
        for size in (8, 16)
        for backbone, of in (("gpt2", ("zero-shot", "full", "lora")), ("llama", ("full", "lora")))
        for method in of
    ]
    by = {(run.backbone, run.method): run for run in runs[:5]}
    assert by["gpt2", "full"].training.learning_rate == 1e-4
    assert (by["llama", "full"].training.learning_rate, by["llama", "full"].training.epochs) == (3e-5, 1)
    assert (by["gpt2", "lora"].hyperparameters["r"], by["llama", "lora"].hyperparameters["r"]) == (2, 8)


def test_keys_do_not_depend_on_how_a_study_names_its_backbones() -> None:
    one = study(backbone="gpt2", backbones=[], seeds=[0, 1])
    listed, several = study(backbones=["gpt2"], seeds=[0, 1]), study(seeds=[0, 1])
    assert one.runs() == listed.runs() == [run for run in several.runs() if run.backbone == "gpt2"]
    assert [run.key for run in one.runs()] == [run.key for run in listed.runs()]
    assert [run.label for run in one.runs()] == [run.label for run in listed.runs()]
    for each in (one, listed, several):
        assert Study.parse(each.model_dump(mode="json"), "study.json") == each


@pytest.mark.parametrize(
    ("changes", "error", "code"),
    [
        ({"backbone": "gpt2"}, InvalidStudy, "study.contradiction"),
        ({"backbones": []}, InvalidStudy, "study.key-missing"),
        ({"backbones": ["gpt2", "llama", "gpt2"]}, InvalidStudy, "study.value-invalid"),
        ({"backbones": "gpt2"}, InvalidStudy, "study.value-invalid"),
        ({"methods": {"lora": {"backbones": ["gpt2"]}}}, InvalidStudy, "study.contradiction"),
        ({"methods": {"lora": {"backbones": []}}}, InvalidStudy, "study.value-invalid"),
        ({"methods": {"lora": {"backbones": "gpt2"}}}, InvalidStudy, "study.value-invalid"),
        ({"methods": {"lora": {"backbones": ["gpt2", "gpt2"]}}}, InvalidStudy, "study.value-invalid"),
        ({"methods": {"lora": {"backbones": ["lama"]}}}, UnknownName, "name.unknown"),
        ({"methods": {"lora": {"by_backbone": {"lama": {}}}}}, UnknownName, "name.unknown"),
        ({"methods": {"lora": {"by_backbone": {"gpt2": 3}}}}, InvalidStudy, "study.value-invalid"),
        ({"methods": {"lora": {"by_backbone": {"gpt2": {"method": "full"}}}}}, InvalidStudy, "study.contradiction"),
        ({"methods": {"lora": {"by_backbone": {"gpt2": {"rank": 3}}}}}, UnknownName, "name.unknown"),
        (
            {"tune": {}, "methods": {"lora": {"by_backbone": {"gpt2": {"epochs": 3}}}}},
            InvalidStudy,
            "study.contradiction",
        ),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(changes: dict[str, Any], error: type[AfinaError], code: str) -> None:
    with raises(error, code=code):
        study(**changes)


def test_a_new_backbone_takes_the_place_of_several_and_the_other_way_round(tmp_path: Path) -> None:
    one, several = tmp_path / "one.toml", tmp_path / "several.toml"
    one.write_text('name = "a"\nbackbone = "gpt2"\ntask = "sst2"\n[methods.lora]\n')
    several.write_text('name = "a"\nbackbones = ["gpt2", "llama"]\ntask = "sst2"\n[methods.lora]\n')
    assert Study.load(several, "backbone=embedded").addresses == ("embedded",)
    assert Study.load(one, 'backbones=["a", "b"]').addresses == ("a", "b")
    assert Study.load(one).addresses == ("gpt2",)


def test_fewer_backbones_take_what_the_tables_say_of_the_others(tmp_path: Path) -> None:
    file = tmp_path / "several.toml"
    file.write_text(
        """
        name = "a"
        backbones = ["gpt2", "llama"]
        task = "sst2"
        [methods.zero-shot]
        backbones = ["gpt2"]
        [methods.full]
        backbones = ["gpt2", "llama"]
        [methods.full.by_backbone.gpt2]
        learning_rate = 1e-5
        """
    )
    full = {run.backbone: run for run in Study.load(file).runs() if run.method == "full"}
    assert Study.load(file, "backbone=llama").runs() == [full["llama"]]
    assert [run.title for run in Study.load(file, 'backbones=["gpt2"]').runs()] == ["zero-shot", "full"]
    assert Study.load(file, "backbone=gpt2").runs()[1] == full["gpt2"]
    with raises(UnknownName, code="name.unknown"):
        Study.load(file, "backbone=embedded")


# Tuning


def test_each_backbone_has_a_setting_of_its_own() -> None:
    this = study(tune={}, methods={"lora": {"by_backbone": {"llama": {"weight_decay": 0.5}}}, "full": {}})
    assert list(this.spaces()) == ["lora on gpt2", "full on gpt2", "lora on llama", "full on llama"]

    def chosen(name: str, backbone: str, rate: float | None) -> Tuned:
        setting = None if rate is None else {"learning_rate": rate}
        trial = Trial(setting={"learning_rate": rate or 1.0}, steps=2, value=0.5, seconds=1.0)
        return Tuned(name=name, method=name, backbone=backbone, trials=(trial,), setting=setting)

    tuned = [chosen("lora", "gpt2", 1e-3), chosen("lora", "llama", 1e-5), chosen("full", "llama", 1e-4)]
    settled = this.settle([*tuned, chosen("full", "gpt2", None)])
    rates = {(run.method, run.backbone): run.training.learning_rate for run in settled.runs()}
    assert rates == {("lora", "gpt2"): 1e-3, ("lora", "llama"): 1e-5, ("full", "llama"): 1e-4}
    decay = {(run.method, run.backbone): run.training.weight_decay for run in settled.runs()}
    assert decay["lora", "llama"] == 0.5
    assert Study.parse(settled.model_dump(mode="json"), "study.json").runs() == settled.runs(), "study.json repeats it"
    assert trials.Tuned.model_validate_json(tuned[0].model_dump_json()) == tuned[0]


# Runs


class OneBackboneFails(InventedExecutor):
    def carry_out(self, run: Run, *given: Any, **options: Any) -> Record:
        if run.backbone == "llama" and run.method == "lora":
            raise RunFailed(f"run {run.title}: it was made to fail.")
        return super().carry_out(run, *given, **options)


def test_runs_that_fail_are_named_by_method_and_backbone(tmp_path: Path) -> None:
    scribe = Scribe()
    this = study(methods={"full": {}, "lora": {}})
    results = this.run(tmp_path / "out", scribe, executor=OneBackboneFails())
    titles = ["full on gpt2", "lora on gpt2", "full on llama", "lora on llama"]
    assert [line.split(" ", 1)[1][:-4] for line in scribe.told if line.startswith("started")] == titles
    assert "failed lora on llama: it was made to fail." in scribe.told
    assert [(one.name, one.backbone) for one in results.failed] == [("lora", "llama")]
    assert "lora on llama, seed 0" in str(results)
    report = Report.of(results)
    assert "Not included: 1 run that failed (lora on llama, seed 0)." in report.sentences
    assert "- lora on llama, seed 0: run lora: it was made to fail." in report.markdown()
    failed = report.summary()["records"][-1]  # type: ignore[index]
    assert (failed["name"], failed["backbone"], failed["status"]) == ("lora", "llama", "failed")


@pytest.fixture(scope="module")
def asked(backbones: Models, toy: str) -> Study:
    """A study of two backbones with two methods on one of them."""
    return Study(
        name="two",
        backbones=[str(backbones.path(family)) for family in ("gpt2", "llama")],
        task=toy,
        train={"max_steps": 4, "batch_size": 8, "dtype": "float32", "learning_rate": 5e-3},
        ask={"head": "random"},
        baselines=True,
        methods={"full": {"backbones": [str(backbones.path("llama"))]}, "lora": {}},
    )


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, asked: Study) -> Path:
    """Its results."""
    out = tmp_path_factory.mktemp("compared") / "out"
    asked.run(out, executor=HereExecutor())
    return out


@pytest.mark.slow
def test_recorded_runs_are_not_repeated_nor_is_a_backbone_that_is_added(asked: Study, compared: Path) -> None:
    alone = asked.model_copy(update={"backbones": asked.backbones[:1], "methods": {"lora": {}}})
    for one, names in ((asked, 3), (alone, 1)):
        scribe = Scribe()
        results = one.run(compared, scribe, executor=HereExecutor())
        assert len(results.records) == names
        assert not [line for line in scribe.told if line.startswith("started")]
    asked.run(compared, executor=HereExecutor())


def test_an_adapter_is_found_by_method_and_backbone(asked: Study, compared: Path) -> None:
    gpt2, llama = asked.backbones
    there = {(one.name, one.backbone): compared / one.adapter for one in Results.read(compared).records}
    assert find_adapter(compared, "full").path == there["full", llama]
    assert find_adapter(compared, "full", backbone="moved/llama").path == there["full", llama], "the only one has moved"
    assert find_adapter(compared, backbone=gpt2).path == there["lora", gpt2], "the only method on this backbone"
    for backbone in asked.backbones:
        assert find_adapter(compared, "lora", backbone=backbone).path == there["lora", backbone]
        assert Results.read(compared).adapter("lora", backbone=backbone) == there["lora", backbone]
    for given in (None, "moved/llama"):
        with raises(InvalidStudy, code="adapter.ambiguous", method="lora") as caught:
            find_adapter(compared, "lora", backbone=given)
        assert f"`backbone`: {gpt2}, {llama}." in str(caught.value)
    with raises(InvalidStudy, code="adapter.ambiguous"):
        Results.read(compared).adapter("lora")
    with raises(UnknownName, code="name.unknown"):
        Results.read(compared).adapter("lora", backbone="lama")


def test_a_user_sees_and_uses_both_backbones(afina: Command, asked: Study, compared: Path) -> None:
    gpt2, llama = asked.backbones
    shown = afina("show", compared)
    assert shown.code == 0, shown.err
    names = [Path(each).name for each in asked.backbones]
    for text in (f"LoRA on {names[0]}", f"LoRA on {names[1]}", f"full fine-tuning on {names[1]}", "To serve"):
        assert text in " ".join(shown.out.split()), text
    assert f"full fine-tuning on {names[0]}" not in shown.out
    used = shown.out.splitlines()[-1]
    assert used.startswith("To use ")
    assert " on " in used
    assert afina("predict", compared, "--method", "lora", "--backbone", llama, "A lovely day.", "--json").code == 0
    assert "--backbone" in afina("predict", compared, "--method", "lora", "A lovely day.").error
    published = afina(
        "store", "publish", compared, "acme/two", "--message", "x", "--method", "lora", "--backbone", gpt2
    )
    assert published.code == 0, published.err


@pytest.mark.slow
def test_the_report_is_of_both_backbones(asked: Study, compared: Path) -> None:
    report = Report.of(Results.read(compared))
    names = [Path(each).name for each in asked.backbones]
    assert [arm.label for arm in report.arms] == [
        f"LoRA on {names[0]}",
        f"full fine-tuning on {names[1]}",
        f"LoRA on {names[1]}",
    ]
    text = report.markdown()
    page = report.page()
    assert all(f"<code>{address}</code>" in page for address in asked.backbones)
    assert "Environment 1" not in text, "both backbones were used on this machine"
    assert len(report.verdicts.compared) == 3
    tables = json.loads(report.files(["tables.json"])["tables.json"])["tables"]
    for row, arm in zip(tables["answers"], report.arms, strict=True):
        record = arm.record
        assert row["seconds_a_text"] == record.seconds.evaluate / record.examples
        added = record.body if record.method == "lora" else 0
        assert row["bytes_to_serve"] == 4 * (record.total + added)
    assert "answers,LoRA on" in report.files(["tables.csv"])["tables.csv"]
    assert "against the time of an answer" in page


def test_a_report_of_one_backbone_has_no_answers(runs: Any, tmp_path: Path, asked: Study) -> None:
    alone = asked.model_copy(update={"backbones": asked.backbones[:1], "methods": {"lora": {}}})
    results = alone.run(tmp_path / "out", executor=InventedExecutor())
    report = Report.of(results)
    assert [arm.label for arm in report.arms] == ["LoRA"]
    assert "answers" not in json.loads(report.files(["tables.json"])["tables.json"])["tables"]
    assert "To serve" not in report.markdown()


# Presets, plans, encoders


def test_a_preset_leaves_out_methods_that_answer_in_words_where_labels_have_none(
    afina: Command, asked: Study, backbones: Models, toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rated = write_csv(tmp_path / "rated.csv", [(text, len(text)) for text, _ in sentences(60)], ("text", "rating"))
    few = [f"backbones={list(asked.backbones)}", f'methods.zero-shot.backbones=["{asked.backbones[0]}"]']
    preset = Study.load("backbones", [f'task="{rated}"', *few])
    suited, left_out = suited_to_task(preset)
    assert (set(suited.methods), left_out) == ({"full", "lora", "linear_probe"}, ["zero-shot"])
    numbered = write_csv(tmp_path / "numbered.csv", sentences(60))
    monkeypatch.setattr(by_name, "LocalExecutor", lambda slots, **_: InventedExecutor())
    answer = afina("study", "quickstart", "--task", numbered, "--backbone", asked.backbones[0], "--json")
    assert "zero-shot" not in {one["method"] for one in answer.object()["records"]}
    assert "Left out, because the labels have no words: zero-shot" in answer.err
    answer = afina("study", "quickstart", "--task", toy, "--backbone", backbones.path("bert"), "--out", "encoder")
    assert "Left out, because an encoder cannot be asked in words: zero-shot" in answer.err


def test_a_preset_asks_in_words_where_words_are_given_for_labels_that_are_none(asked: Study, tmp_path: Path) -> None:
    numbered = write_csv(tmp_path / "numbered.csv", sentences(60))
    preset = Study.load("quickstart", [f'task="{numbered}"', f'backbone="{asked.backbones[0]}"'])
    assert suited_to_task(preset)[1] == ["zero-shot"]
    words = {"0": (" dull",), "1": (" warm",)}
    given = preset.model_copy(update={"ask": preset.ask.model_copy(update={"head": "words", "words": words})})
    assert suited_to_task(given) == (given, [])


@pytest.mark.slow
def test_costs_are_planned_for_each_backbone(afina: Command, asked: Study) -> None:
    both = [part for address in asked.backbones for part in ("--backbone", address)]
    planned = afina("plan", *both, "--method", "lora", "--json").object()["backbones"]
    assert [one["backbone"] for one in planned] == list(asked.backbones)
    assert [one["methods"]["lora"]["trainable"] for one in planned] == [1_088, 1_344]
    assert "more than once" in afina("plan", *both[:2], *both[:2]).error


@pytest.mark.parametrize("command", [("train", "--task", "reviews.csv"), ("ask", "--task", "reviews.csv"), ("params",)])
def test_commands_for_one_backbone_refuse_a_second_one(command: tuple[str, ...], afina: Command) -> None:
    assert "found gpt2, embedded" in afina(*command, "--backbone", "gpt2", "--backbone", "embedded").error


@pytest.mark.parametrize(
    ("changes", "method"),
    [
        ({"methods": {"zero-shot": {}, "lora": {}}}, "zero-shot"),
        ({"methods": {"lora": {"head": "words"}}}, "lora"),
        ({"ask": {"words": {"bad": ["bad"], "good": ["good"]}}}, "lora"),
    ],
)
def test_an_encoder_that_is_asked_in_words_is_refused_before_a_run(
    changes: dict[str, Any], method: str, backbones: Models, toy: str, tmp_path: Path
) -> None:
    causal, encoder = (str(backbones.path(family)) for family in ("gpt2", "bert"))
    this = study(backbones=[causal, encoder], task=toy, **changes)
    with raises(InvalidStudy, code="backbone.encoder-unsupported", method=method):
        this.run(tmp_path / "out", executor=HereExecutor())
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_encoder_beside_a_language_model_that_is_asked_in_words(backbones: Models, toy: str, tmp_path: Path) -> None:
    causal, encoder = (str(backbones.path(family)) for family in ("gpt2", "bert"))
    methods = {"zero-shot": {"backbones": [causal]}, "lora": {}}
    this = study(backbones=[causal, encoder], task=toy, methods=methods, train={"max_steps": 1, "batch_size": 8})
    results = this.run(tmp_path / "out", executor=HereExecutor())
    assert not results.failed
    heads = {(one.method, one.backbone): one.ask.words is not None for one in results.records}
    assert heads == {("zero-shot", causal): True, ("lora", causal): True, ("lora", encoder): False}


def test_a_preset_on_an_encoder_leaves_out_what_answers_in_words(backbones: Models, toy: str) -> None:
    causal, encoder = (str(backbones.path(family)) for family in ("gpt2", "bert"))
    alone, left_out = suited_to_backbones(study(backbones=[encoder], task=toy, methods={"zero-shot": {}, "lora": {}}))
    assert (list(alone.methods), left_out) == (["lora"], ["zero-shot"])
    both = study(backbones=[causal, encoder], task=toy, methods={"zero-shot": {}, "lora": {}})
    changed, left_out = suited_to_backbones(both)
    assert {(run.method, run.backbone) for run in changed.runs()} == {
        *(("lora", one) for one in (causal, encoder)),
        ("zero-shot", causal),
    }
    assert left_out == [f"zero-shot on {Path(encoder).name}"]
    nothing = study(backbones=[encoder], task=toy, methods={"zero-shot": {}})
    assert suited_to_backbones(nothing) == (nothing, [])


def test_an_encoder_does_not_write_texts(backbones: Models, tmp_path: Path) -> None:
    rows = [(text, text.upper()) for text, _ in sentences(40)]
    task = str(write_csv(tmp_path / "upper.csv", rows, ("document", "summary")))
    this = study(backbones=[str(backbones.path("bert"))], task=task, data={"kind": "text"})
    with raises(InvalidStudy, code="backbone.encoder-unsupported"):
        this.run(tmp_path / "out", executor=HereExecutor())
    assert not (tmp_path / "out").exists()
