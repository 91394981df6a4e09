"""Commands that run studies or show their results: study, train, choose, show, report."""

from __future__ import annotations

import json
import shlex
import sys
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from afina.cli import problems, torchrun
from afina.cli.options import (
    ComparedBackbones,
    FreshOption,
    Json,
    MetricOption,
    NewBackbone,
    NoTexts,
    Overrides,
    PublishOption,
    SeedOption,
    SendTexts,
    SeveralBackbones,
    StudyBackbone,
    asking,
    asking_endpoint,
    choosing,
    only,
    reading_option,
    required_task,
    takes,
    task_if_given,
    training,
)
from afina.cli.results import (
    check_publishing,
    print_content,
    publish_winner,
    show_results,
    write_report,
    write_text,
)
from afina.cli.terminal import (
    ends_with,
    exit_status,
    print_marked,
    print_prose,
    printable,
    sigterm_as_ctrl_c,
)
from afina.errors import AfinaError
from afina.sentence import Sentence

if TYPE_CHECKING:
    from afina.events import Says
    from afina.studies.executors.executor import Executor
    from afina.studies.results import Results
    from afina.studies.study import Study


@dataclass(frozen=True)
class ExecutorOptions:
    """The options that say where runs are executed, and by how many processes each."""

    executor: Annotated[
        str | None,
        typer.Option(
            "--executor",
            help="Where runs are executed: local, ray or ray=ADDRESS (a Ray cluster; needs the extra 'afina[ray]').",
            metavar="NAME",
        ),
    ] = None
    ship_backbone: Annotated[
        bool,
        typer.Option(
            "--ship-backbone", help="With Ray: copy the directory of the backbone to the storage, for the nodes."
        ),
    ] = False
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            help="With Ray: where nodes read and write the files of runs: a directory that this machine and all nodes "
            "see, or s3://BUCKET/PREFIX. Required unless this machine is the only node.",
            metavar="ADDRESS",
        ),
    ] = None
    devices: Annotated[
        int,
        typer.Option(
            "--devices",
            help="Number of processes that execute each run together: one for each GPU, or with equal shares of the "
            "processors. With Ray, the processes are on one node or several.",
            min=1,
            metavar="N",
        ),
    ] = 1
    shard: Annotated[
        bool,
        typer.Option(
            "--shard",
            help="Divide the weights of the backbone among the devices of a run, for a model that is too large for one "
            "device.",
        ),
    ] = False

    def opened(self, says: Says, jobs: int | None = None) -> AbstractContextManager[Executor]:
        """Return the executor of the options, which the end of a `with` block closes. `says` gets its messages.

        If torchrun has started this process, the executor is that of its processes.
        """
        if (begun := torchrun.executor()) is not None:
            given = {"executor": self.executor not in (None, "local"), "storage": self.storage is not None}
            given |= {"ship_backbone": self.ship_backbone, "devices": self.devices > 1}
            for option in (option for option, is_given in given.items() if is_given):
                raise problems.OPTION_OF_TORCHRUN(option=option)
            return nullcontext(begun.sharding(self.shard))
        from afina.studies.executors import by_name

        options = {**vars(self), "jobs": jobs, "says": says}
        return closing(by_name.make(options.pop("executor"), **options))


JobsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        help="Number of runs at the same time; the runs share the processors. Default: 1, or as many as fit on a Ray "
        "cluster.",
        min=1,
        metavar="N",
    ),
]


@takes(task=task_if_given, ask=asking, run_in=ExecutorOptions)
def study(
    source: Annotated[
        str,
        typer.Argument(
            help="Study file (TOML), or preset: quickstart, fair, methods, backbones, paper or e2e.", metavar="STUDY"
        ),
    ],
    *,
    task: str | None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Directory of the results; by default results/NAME.")
    ] = None,
    overrides: Overrides = None,
    backbone: SeveralBackbones = None,
    evaluation: Annotated[str | None, reading_option("evaluation")] = None,
    unlabelled: Annotated[str | None, reading_option("unlabelled")] = None,
    without: Annotated[str | None, reading_option("without")] = None,
    ask: dict[str, Any],
    allow_leakage: Annotated[bool, reading_option("allow_leakage")] = False,
    no_texts: NoTexts = False,
    publish: PublishOption = None,
    fresh: FreshOption = False,
    send_texts: SendTexts = False,
    jobs: JobsOption = None,
    run_in: ExecutorOptions,
    as_json: Json = False,
) -> None:
    """Compare methods, and backbones, by a study file or a preset; on the task FILE instead of that of STUDY.

    Runs every method and seed of the study and prints tables and a conclusion. Recorded runs are not repeated. After an
    interruption, the same command continues from the last checkpoint.
    """
    from afina.studies.preset_methods import suited_to_backbones, suited_to_task
    from afina.studies.study import Study
    from afina.studies.study_file import presets

    check_publishing(publish)
    given = list(overrides or [])
    named = {"task": task, "data.evaluation": evaluation}
    named |= {"data.unlabelled": unlabelled, "data.without": without}
    given += [f"{key}={_toml(value)}" for key, value in named.items() if value is not None]
    if backbone:
        given.append(f"backbones={_toml(backbone)}" if backbone[1:] else f"backbone={_toml(backbone[0])}")
    given += ["data.allow_leakage=true"] if allow_leakage else []
    given += [f"ask.{key}={_toml(value)}" for key, value in ask.items()]
    chosen = Study.load(source, given)
    if task is not None and source in presets():
        chosen, left_out = suited_to_task(chosen)
        if left_out:
            print(f"Left out, because the labels have no words: {', '.join(left_out)}", file=sys.stderr)
    if backbone and source in presets():
        chosen, left_out = suited_to_backbones(chosen)
        if left_out:
            print(f"Left out, because an encoder cannot be asked in words: {', '.join(left_out)}", file=sys.stderr)
    run_in = replace(run_in, executor=run_in.executor or chosen.executor)
    options: dict[str, Any] = {"publish": publish, "fresh": fresh, "send_texts": send_texts, "jobs": jobs}
    _carry_out(chosen, out, as_json, run_in, texts=not no_texts, **options)


TrainingOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="A hyperparameter or training setting, such as r=8 or epochs=3; token_budget=1024 and "
        "checkpointing=true save memory.",
        metavar="KEY=VALUE",
    ),
]


AbstainOption = Annotated[
    float | None,
    typer.Option(
        "--abstain-error",
        help="Leave texts unanswered of which the model is unsure, so that at most this share of the answers is wrong, "
        "such as 0.05 (with 95 % confidence). A fifth of the training texts is set aside for it.",
        metavar="SHARE",
    ),
]


FromOption = Annotated[
    Path | None,
    typer.Option(
        "--from",
        help="Directory of results of 'afina choose': train what is recommended there, with its backbone, method, "
        "settings, seed and data. Other options replace the recorded ones; another method or backbone is refused.",
        metavar="DIR",
    ),
]

TeacherOption = Annotated[
    Path | None,
    typer.Option(
        "--teacher",
        help="Directory of an adapter, or of a study: learn from its probabilities, also for the texts of "
        "--unlabelled.",
        metavar="DIR",
    ),
]


@takes(task=task_if_given, data=training, ask=asking, run_in=ExecutorOptions)
def train(
    *,
    task: str | None,
    chosen_in: FromOption = None,
    backbone: NewBackbone = None,
    method: Annotated[
        str | None, typer.Option("--method", help="Method; 'afina methods' lists them. [default: lora]")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Directory of the results.")] = Path("results/train"),
    seed: Annotated[
        int | None,
        typer.Option("--seed", help="Random seed of head, order of texts and dropout. [default: 0]", min=0),
    ] = None,
    teacher: TeacherOption = None,
    abstain_error: AbstainOption = None,
    overrides: TrainingOverrides = None,
    metric: MetricOption = None,
    ask: dict[str, Any],
    fresh: FreshOption = False,
    send_texts: SendTexts = False,
    run_in: ExecutorOptions,
    as_json: Json = False,
    data: dict[str, Any],
) -> None:
    """Train one adapter on your texts and evaluate it.

    Prints the adapter's main metric beside those of simple baselines; `afina show` prints all tables.
    A recorded run with the same texts and settings is not repeated.

    With several processes, on one machine or several: torchrun --nproc-per-node 2 -m afina train ...
    """
    from afina.methods import is_fitted
    from afina.studies.study import Study
    from afina.studies.study_file import override

    given: dict[str, Any] = {}
    # Here all are of the one method, there of the whole study.
    override(given, (item.removeprefix("train.") for item in overrides or []))
    content = _training_of(task, method, only(backbone) if backbone else None, chosen_in)
    ((method, recorded),) = content["methods"].items()
    if given.keys() & {"epochs", "max_steps"}:
        recorded = {name: value for name, value in recorded.items() if name not in ("epochs", "max_steps")}
    if is_fitted(method):
        ask.pop("head", None)  # scikit-learn fits the head; words of labels are texts to learn from
    settings = recorded | given
    if chosen_in is not None:
        settings |= ask  # the prompt that was recorded is a setting of the method
    elif run_in.executor in (None, "local") and "precision" not in settings and not run_in.shard:
        settings = _usual_products(method) | settings
    if abstain_error is not None:
        settings["abstain_error"] = abstain_error
    if teacher is not None:
        settings["teacher"] = str(teacher.absolute())
    content |= {"seeds": content["seeds"] if seed is None else [seed], "metric": metric or content.get("metric")}
    content |= {"data": content["data"] | data, "ask": ask, "methods": {method: settings}}
    chosen = Study.parse(content, "afina train")
    usual = backbone is None and chosen_in is None
    _carry_out(chosen, out, as_json, run_in, fresh=fresh, brief=True, send_texts=send_texts, usual=usual)


def _training_of(task: str | None, method: str | None, backbone: str | None, chosen_in: Path | None) -> dict[str, Any]:
    """Return the study of one method on a task: with usual settings, or as the results in `chosen_in` recommend."""
    from afina.methods import asks_endpoint
    from afina.models.backbone_spec import BGE
    from afina.studies.study_toml import recommended_study

    same = {"name": "train", "baselines": True}
    if chosen_in is None:
        if task is None:
            raise problems.TASK_MISSING(_or=Sentence.of(", or `chosen_in` with the results of `afina choose`"))
        method = method or "lora"
        pretrained = None if asks_endpoint(method) else backbone or BGE
        return {**same, "backbone": pretrained, "task": task, "seeds": [0], "data": {}, "methods": {method: {}}}
    made = recommended_study(chosen_in)
    (recommended,) = made.methods
    for option, given, expected in (("method", method, recommended), ("backbone", backbone, made.backbone)):
        if given not in (None, expected):
            raise problems.OTHER_THAN_RECOMMENDED(option=option, found=given, expected=expected, path=chosen_in)
    data = made.data.given if task in (None, made.task) else {}
    recorded = {"backbone": made.backbone, "task": task or made.task, "metric": made.metric, "seeds": [*made.seeds]}
    return {**same, **recorded, "data": data, "methods": dict(made.methods)}


def _on_usual_backbone(study: Study, says: Says) -> Study:
    """Return the study of one run on the packaged backbone that suits its task, its method and its prompt."""
    from afina.data.task import Task
    from afina.methods import asks_endpoint
    from afina.studies.backbones import usual_backbone

    (run,) = study.runs()
    if asks_endpoint(run.method):
        return study
    task = Task.load(run.task, replace(run.data, allow_leakage=True))
    found = usual_backbone(task.kind, says, task.train.texts, run)
    return study.model_copy(update={"backbone": found})


def _usual_products(method: str) -> dict[str, Any]:
    """Return the setting `products` of a training on this machine for which the user gives none; empty if float."""
    from afina.methods import asks_endpoint, make
    from afina.models.backbone_spec import FLOAT
    from afina.training.settings import usual_products

    if asks_endpoint(method):
        return {}
    found = usual_products()
    return {} if found == FLOAT or not make(method).multiplies_frozen else {"products": found}


MemoryLimit = Annotated[
    str | None, typer.Option("--memory", help="Memory limit of a run, such as 8GiB; by default the free memory.")
]


LatencyOption = Annotated[
    float | None,
    typer.Option(
        "--latency",
        help="Most milliseconds for the answer to a single text on this machine. Slower models are left out.",
        metavar="MS",
    ),
]


ProductsOption = Annotated[
    str | None,
    typer.Option(
        "--products",
        help="Products with frozen weights in training: float, or int8 on processors that support it. By default as "
        "in 'afina train'.",
    ),
]


@takes(task=required_task, data=choosing, ask=asking, endpoint=asking_endpoint, run_in=ExecutorOptions)
def choose(
    *,
    task: str,
    minutes: Annotated[float, typer.Option("--minutes", help="Time limit in minutes, such as 1 or 30.")] = 5.0,
    memory: MemoryLimit = None,
    backbone: ComparedBackbones = None,
    latency: LatencyOption = None,
    products: ProductsOption = None,
    out: Annotated[Path, typer.Option("--out", help="Directory of the results.")] = Path("results/choose"),
    metric: MetricOption = None,
    ask: dict[str, Any],
    endpoint: dict[str, Any] | None,
    send_texts: SendTexts = False,
    no_texts: NoTexts = False,
    publish: PublishOption = None,
    jobs: JobsOption = None,
    run_in: ExecutorOptions,
    as_json: Json = False,
    data: dict[str, Any],
) -> None:
    """Recommend a backbone and a method for your texts, within the given minutes.

    Prints a first answer after some seconds, and each better one. Ctrl-C ends with the best so far. At the end, prints
    the measurements that support the recommendation, and saves the adapter of the recommended method.
    """
    from afina import meter
    from afina.cli.progress import Minutes
    from afina.schema import read_size
    from afina.studies.choosing.recommend import recommend

    check_publishing(publish)
    began, command = meter.now(), ["afina", *sys.argv[1:]]
    asked: dict[str, Any] = {
        "backbone": backbone or None,
        "out": out,
        "data": data,
        "ask": ask,
    }
    asked |= {"metric": metric, "latency": latency, "memory": read_size(memory) if memory is not None else None}
    asked |= {"products": products, "endpoint": endpoint, "send_texts": send_texts}
    watcher = Minutes(began, lambda line: print(line, file=sys.stderr))
    executing = run_in.opened(watcher.says, jobs)
    hint = f"Interrupted. `choose` has no checkpoints. To begin again: {shlex.join(command)}"
    with ends_with(hint), executing as opened:
        results = recommend(task, minutes, **asked, watcher=watcher, executor=opened, command=command, began=began)
    with ends_with(
        f"Interrupted. The recommendation is saved. To write its report: afina report {shlex.quote(str(out))}"
    ):
        _write_publish_show(results, publish, as_json, texts=not no_texts)


def show(
    out: Annotated[Path, typer.Argument(help="Directory of a study.", metavar="OUT")],
    study_file: Annotated[
        bool,
        typer.Option("--study-file", help="Print instead the study file (TOML) that repeats the runs."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Print the tables of a study again, finished or not.

    The study file of a recommendation trains the recommended method with its settings.
    """
    from afina.studies.results import Results

    if study_file:
        from afina.studies import study_toml

        text = study_toml.as_toml(study_toml.study_of(out))
        print(json.dumps({"study_file": text}, ensure_ascii=False) if as_json else text, end="\n" if as_json else "")
        return
    results = Results.read(out)
    show_results(results, as_json, by_label=True)
    for one in () if as_json else results.failed:
        print_prose(f"Failed: {one.name}, seed {one.seed}: {one.error}")


def report(
    out: Annotated[Path, typer.Argument(help="Directory of a study.", metavar="OUT")],
    no_texts: NoTexts = False,
    content: Annotated[
        bool,
        typer.Option(
            "--content",
            help="Write no file. Print what report.html shows as HTML without a frame, for a page of yours.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the report of a study again, finished or not.

    The files are report.html, report.md, tables.csv and tables.json.
    """
    from afina.studies.results import Results

    results = Results.read(out)
    if content:
        print_content(results, texts=not no_texts, as_json=as_json)
        return
    files = [str(path) for path in write_report(results, texts=not no_texts)]
    print(json.dumps({"files": files}) if as_json else "\n".join(files))


def texts(
    out: Annotated[Path, typer.Argument(help="Directory of a study.", metavar="OUT")],
    given: Annotated[
        str | None, typer.Option("--given", help="Only texts with this right label.", metavar="LABEL")
    ] = None,
    predicted: Annotated[
        str | None, typer.Option("--predicted", help="Only texts that were answered so.", metavar="LABEL")
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", help="The method, by default the recommended or the leading one.")
    ] = None,
    seed: SeedOption = None,
    backbone: StudyBackbone = None,
    most: Annotated[int | None, typer.Option("--most", help="Most texts; by default all.", min=1, metavar="N")] = None,
    longest: Annotated[
        int | None,
        typer.Option("--longest", help="Most characters of a text; longer texts are cut.", min=1, metavar="N"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the held-out texts that a method answered in a certain way.

    Without --given and --predicted: all texts with a wrong answer. The most confident answers come first; of entities,
    the texts with the most errors. Nothing is computed again: the answers are those of the study.
    """
    from dataclasses import asdict

    from afina.report.examples.answered_texts import RunChoice
    from afina.report.report import Report
    from afina.studies.results import Results

    chosen = RunChoice(method, seed, backbone)
    found = Report.of(Results.read(out)).texts(given, predicted, chosen, most=most, longest=longest)
    if as_json:
        print(json.dumps(asdict(found), ensure_ascii=False))
        return
    print_prose(f"{found.title}, seed {found.seed}: {found.words}")
    for one in found.texts:
        place = one.where or f"row {one.row}"
        if one.right is not None and one.answer is not None:
            labels = sorted({mark.label for mark in (*one.right.marks, *one.answer.marks)})
            print(printable(f"{place}, right and answered:"))
            print_marked(one.right, labels)
            print_marked(one.answer, labels)
            continue
        sure = "" if one.probability is None else f" ({one.probability:.2f})"
        print(printable(f"{place}: {one.given}, answered {one.predicted}{sure}: {' '.join(one.text.split())}"))


def _write_publish_show(results: Results, name: str | None, as_json: bool, *, texts: bool, brief: bool = False) -> None:
    made = results.recommendation
    if results.results or made:
        try:
            write_report(results, texts=texts)
        except KeyboardInterrupt:
            if made is None or made.early:
                raise
            write_report(results, texts=texts)  # the first Ctrl-C, which ends a recommendation with its answer
    published = publish_winner(results, name, texts=texts) if name is not None else None
    show_results(results, as_json, published, brief=brief)


def _toml(value: str | list[str] | dict[str, list[str]]) -> str:
    """Return a value as TOML. Strings and lists in JSON are valid TOML."""
    if isinstance(value, str | list):
        return json.dumps(value, ensure_ascii=False)
    return (
        "{" + ", ".join(f"{_toml(key)} = {json.dumps(given, ensure_ascii=False)}" for key, given in value.items()) + "}"
    )


def _carry_out(
    study: Study,
    out: Path | None,
    as_json: bool,
    run_in: ExecutorOptions,
    *,
    texts: bool = True,
    publish: str | None = None,
    fresh: bool = False,
    brief: bool = False,
    send_texts: bool = False,
    jobs: int | None = None,
    usual: bool = False,
) -> None:
    """Run the study, write its report and print the results; with `brief`, without tables.

    `usual`: the backbone of the study's only run is the usual one for its task.
    """
    from rich.console import Console

    from afina.cli.progress import watcher
    from afina.studies.runs.output_directory import OutputDirectory

    where = out or Path("results") / study.name
    watching = watcher(Console(stderr=True), write_text)
    command = torchrun.command(sys.argv[1:])
    try:
        with sigterm_as_ctrl_c(), run_in.opened(watching.says, jobs) as executor:
            study = _on_usual_backbone(study, watching.says) if usual else study
            results = study.run(where, watching, command, executor, fresh=fresh, send_texts=send_texts)
    except KeyboardInterrupt as ended:
        watching.stop()
        directory = OutputDirectory(where)
        kept = " from the last checkpoint" if directory.has_checkpoint else ""
        kept = kept or " with the kept answers" * directory.answers.is_file()
        begun = "" if kept or run_in.executor not in (None, "local") else " before there was a checkpoint"
        print(f"\nInterrupted{begun}. To continue{kept}: {shlex.join(command)}", file=sys.stderr)
        raise typer.Exit(exit_status(ended)) from None
    _write_publish_show(results, publish, as_json, texts=texts, brief=brief)
    if results.failed:
        count, runs = len(results.failed), len(results.failed) + len(results.results)
        if runs > 1:
            print(f"{count} of {runs} runs failed. To try these runs again, repeat the command.", file=sys.stderr)
        raise typer.Exit(AfinaError.exit_code)
