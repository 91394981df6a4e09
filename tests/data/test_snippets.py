"""The snippets: which texts are kept, what they are called, how they are divided, and what one human would tell."""

import random
import statistics
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, f1_score

from afina import assets
from afina.data.addresses import is_at_hand
from afina.data.readers import snippets
from afina.data.readers.snippets import DOMAINS, Snippet
from afina.data.split import normalised
from afina.data.task import Task
from afina.errors import NotFound, UnknownName
from raises import raises

SHARED = Path(__file__).parents[3] / "shared" / "data" / "sst2"


@pytest.fixture
def invented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with snippets of our own in the form of the real ones."""
    monkeypatch.setenv("AFINA_CACHE", str(tmp_path))
    folder = tmp_path / "assets" / "snippets" / assets.ASSETS["snippets"].version
    folder.mkdir(parents=True)
    lines = [f"{i}\t{(-1) ** i * (0.5 + i / 100)}\tinvented café snippet {i}" for i in range(100)]
    lines += ["x\t0.49\tneither", "y\t-0.3\tnor", "z\t-0.5\tjust\tclear enough "]
    (folder / "movieReviewSnippets_GroundTruth.txt").write_bytes(("\r\n".join(lines) + "\r\n").encode())
    _no_raters(tmp_path)
    return folder


def _no_raters(cache: Path) -> None:
    """Have a cache where the raters could not be had a moment ago, so that nobody is asked for them."""
    (cache / "assets" / "raters").mkdir(parents=True)
    (cache / "assets" / "raters" / "absent").touch()


PEOPLE = 6
"""Raters of an invented snippet; every tenth has one more."""


@pytest.fixture
def four(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with snippets of four domains and their raters, all our own. Its folder of snippets."""
    monkeypatch.setenv("AFINA_CACHE", str(tmp_path))
    draw = random.Random(0)
    folders = [tmp_path / "assets" / name / assets.ASSETS[name].version for name in ("snippets", "raters")]
    for folder in folders:
        folder.mkdir(parents=True)
    for domain, name in DOMAINS.items():
        texts = [f"{domain} snippet {i}" for i in range(120)]
        texts += ["said everywhere", f"twice in {domain}", f"Twice in {domain}!", "..."]
        said, rated = [], []
        for i, text in enumerate(texts):
            middle = draw.choice([-2.5, -1.5, 0, 1.5, 2.5])
            people = PEOPLE + (i % 10 == 0)
            marks = [max(-4, min(4, round(middle + draw.gauss(0, 1)))) for _ in range(people)]
            mean = statistics.fmean(marks) + (domain == "tweets" and i % 5 == 0)
            said.append(f"{i}_1\t{mean:.12g}\t{text}\r\n")
            rated.append(f"{i}_1\t{mean:.9f}\t{statistics.pstdev(marks):.5f}\t{marks}")
        (folders[0] / f"{name}_GroundTruth.txt").write_bytes("".join(said).encode())
        mark = "\ufeff" if domain == "products" else ""
        (folders[1] / f"{name}_anonDataRatings.txt").write_text(mark + "\n".join(reversed(rated)), encoding="utf-8")
    return folders[0]


def people_of(snippet: Snippet) -> list[int]:
    """The marks of a snippet, read in another way than afina's."""
    folder = assets.fetch("raters")
    for line in (folder / f"{DOMAINS[snippet.domain]}_anonDataRatings.txt").read_text(encoding="utf-8").split("\n"):
        number, _, _, marks = line.removeprefix("\ufeff").split("\t")
        if number == snippet.number:
            return [int(mark) for mark in marks.strip("[]").split(", ")]
    raise AssertionError(snippet)


def found(*names: str) -> dict[str, Snippet]:
    return {snippet.text: snippet for snippet in snippets.read(*(names or DOMAINS))}


def evaluated(task: Task, *domains: str) -> list[Snippet]:
    """The evaluated snippets of domains whose marks have the rating for their mean, in the order of the task."""
    texts = set(task.evaluation.texts)
    return [one for one in snippets.read(*domains) if one.text in texts and is_known(one)]


def is_known(snippet: Snippet) -> bool:
    return abs(statistics.fmean(people_of(snippet)) - snippet.rating) < 1e-6


def against(read: list[Snippet]) -> list[list[tuple[int, float]]]:
    """By rater that all snippets have, of each: their mark, and the mean of its other marks."""
    told = [people_of(one) for one in read]
    return [
        [(marks[j], statistics.fmean(marks[:j] + marks[j + 1 :])) for marks in told] for j in range(min(map(len, told)))
    ]


def test_clearly_rated_snippets_are_kept_and_named_by_their_sign(invented: Path) -> None:
    rows = snippets.rows("movies")
    assert len(rows) == 101
    assert rows.texts[:2] == ["invented café snippet 0", "invented café snippet 1"]
    assert rows.labels[:2] == ["positive", "negative"]
    assert (rows.texts[-1], rows.labels[-1]) == ("just\tclear enough", "negative")
    assert rows.where(100) == "movieReviewSnippets_GroundTruth.txt, line 103"


def test_a_task_has_both_labels_in_the_usual_order_or_the_one_given(invented: Path) -> None:
    task = Task.load("snippets:movies")
    assert task.label_names == ("negative", "positive")
    assert len(task.train) + len(task.evaluation) == 101
    turned = Task.load("snippets:movies", labels=("positive", "negative"))
    assert turned.label_names == ("positive", "negative")
    assert (turned.train.labels == 1 - task.train.labels).all()


def test_an_unknown_domain_names_the_nearest_one() -> None:
    with raises(UnknownName, code="name.unknown", name="snippets:movie", kind="task", nearest="snippets:movies"):
        Task.load("snippets:movie")


@pytest.fixture(scope="module")
def real() -> None:
    """The real snippets, in the user's cache."""
    try:
        assets.fetch("snippets")
    except NotFound as error:
        pytest.skip(f"the snippets cannot be had here: {error}")


def test_the_mean_rating_is_a_number_of_all_domains(four: Path) -> None:
    task = Task.load("snippets:ratings")
    assert (task.kind, task.label_names, task.leaked) == ("number", ("rating",), 0)
    assert len(task.train) + len(task.evaluation) == 4 * 124
    assert task.evaluation.labels[0] == found()[task.evaluation.texts[0]].rating


def test_which_domain_is_told_by_texts_of_one_domain_only(four: Path) -> None:
    task = Task.load("snippets:domains")
    texts = [*task.train.texts, *task.evaluation.texts]
    assert task.label_names == tuple(DOMAINS)
    assert len(texts) == 4 * 122
    assert not {"said everywhere", "..."} & set(texts)
    assert {text: task.label_names[label] for text, label, _ in map(_parts, task.evaluation)} == {
        text: next(domain for domain in DOMAINS if domain in text) for text in task.evaluation.texts
    }
    assert task.ceiling == {}


def _parts(example: object) -> tuple[str, int, str | None]:
    return example.text, example.label, example.text_pair  # type: ignore[attr-defined]


def test_a_rating_near_zero_is_neutral_and_the_measure_counts_each_label_alike(four: Path) -> None:
    task = Task.load("snippets:movies-3")
    assert (task.label_names, task.metric) == (("negative", "neutral", "positive"), "f1")
    by_text = found("movies")
    for text, label, _ in map(_parts, task.train):
        rating = by_text[text].rating
        assert task.label_names[label] == ("neutral" if abs(rating) < 0.5 else "positive" if rating > 0 else "negative")
    turned = Task.load("snippets:movies-3", labels=("neutral", "negative", "positive"))
    assert turned.label_names[0] == "neutral"


def check_pairs(task: Task) -> None:
    """What is promised of the task of pairs."""
    by_text = found()
    sides = []
    for split in (task.train, task.evaluation):
        assert split.pairs is not None
        counts = np.bincount(split.labels)
        assert abs(int(counts[0]) - int(counts[1])) <= len(DOMAINS)
        for example in split:
            one, other = by_text[example.text], by_text[str(example.text_pair)]
            assert one.domain == other.domain
            assert abs(one.rating - other.rating) >= 1 - 1e-9
            assert task.label_names[example.label] == ("first" if one.rating > other.rating else "second")
        sides.append([normalised(text) for text in [*split.texts, *split.pairs]])
    assert max(Counter(sides[0] + sides[1]).values()) == 1
    occurring = Counter(normalised(snippet.text) for snippet in snippets.read(*DOMAINS))
    assert {occurring[text] for text in sides[0] + sides[1]} == {1}
    assert "" not in sides[0] + sides[1]
    assert task.leaked == 0


def test_pairs_are_of_one_domain_and_apart_and_hold_each_sentence_once(four: Path) -> None:
    task = Task.load("snippets:pairs")
    assert task.label_names == ("first", "second")
    assert len(task.train) > 100
    check_pairs(task)
    turned = Task.load("snippets:pairs", labels=("second", "first"))
    assert (turned.train.labels == 1 - task.train.labels).all()


def test_pairs_do_not_depend_on_the_order_of_the_files(four: Path) -> None:
    before = Task.load("snippets:pairs")
    for path in four.iterdir():
        lines = path.read_bytes().removesuffix(b"\r\n").split(b"\r\n")
        path.write_bytes(b"\r\n".join(reversed(lines)) + b"\r\n")
    after = Task.load("snippets:pairs")
    assert (after.train.digest, after.evaluation.digest) == (before.train.digest, before.evaluation.digest)
    assert after.ceiling == pytest.approx(before.ceiling)


def test_a_sentence_is_on_the_same_side_of_every_task(four: Path) -> None:
    tasks = [Task.load(f"snippets:{name}") for name in snippets.LOADERS]
    train = {text for task in tasks for text in [*task.train.texts, *(task.train.pairs or ())]}
    evaluation = {text for task in tasks for text in [*task.evaluation.texts, *(task.evaluation.pairs or ())]}
    assert not {normalised(text) for text in train} & {normalised(text) for text in evaluation}


# What one human would tell: each figure again, by a loop


def test_the_ceiling_of_ratings_is_one_rater_against_the_others(four: Path) -> None:
    task = Task.load("snippets:ratings")
    read = evaluated(task, *DOMAINS)
    raters = against(read)
    assert len(raters) == PEOPLE
    assert len(read) < len(task.evaluation)
    mean = statistics.fmean
    expected = {
        "pearson": mean(statistics.correlation(*zip(*each, strict=True)) for each in raters),
        "spearman": mean(spearmanr(*zip(*each, strict=True)).statistic for each in raters),
        "rmse": mean(mean((one - others) ** 2 for one, others in each) ** 0.5 for each in raters),
        "mae": mean(abs(one - others) for each in raters for one, others in each),
    }
    assert task.ceiling == pytest.approx(expected)


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_ceiling_of_a_sign_counts_a_mark_of_zero_one_half(four: Path, domain: str) -> None:
    task = Task.load(f"snippets:{domain}")
    told = [
        pair for each in against([one for one in evaluated(task, domain) if abs(one.rating) >= 0.5]) for pair in each
    ]
    right = [0.5 if one == 0 or others == 0 else float((one > 0) == (others > 0)) for one, others in told]
    assert task.ceiling == pytest.approx({"accuracy": statistics.fmean(right)})
    assert any(one == 0 for one, _ in told)


def test_the_ceiling_of_three_classes_is_accuracy_and_the_mean_f1(four: Path) -> None:
    def third(value: float) -> int:
        return 0 if abs(value) < 0.5 else 1 if value > 0 else -1

    task = Task.load("snippets:movies-3")
    each = [
        ([third(others) for _, others in rater], [third(one) for one, _ in rater])
        for rater in against(evaluated(task, "movies"))
    ]
    expected = {
        "accuracy": statistics.fmean(accuracy_score(*both) for both in each),
        "f1": statistics.fmean(f1_score(*both, average="macro") for both in each),
    }
    assert task.ceiling == pytest.approx(expected)


def test_the_ceiling_of_pairs_counts_equal_marks_one_half(four: Path) -> None:
    task, by_text = Task.load("snippets:pairs"), found()
    couples = [
        (by_text[one], by_text[other])
        for one, other in zip(task.evaluation.texts, task.evaluation.pairs or (), strict=True)
    ]
    both = [couple for couple in couples if all(map(is_known, couple))]
    assert 0 < len(both) < len(couples)
    right = []
    for first, second in zip(against([one for one, _ in both]), against([two for _, two in both]), strict=False):
        for (one, others), (two, rest) in zip(first, second, strict=True):
            right.append(0.5 if one == two or others == rest else float((one > two) == (others > rest)))
    assert task.ceiling == pytest.approx({"accuracy": statistics.fmean(right)})


def test_the_ceiling_is_of_no_other_texts(four: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("text,label\nmine,positive\n", encoding="utf-8")
    assert Task.load("snippets:movies").ceiling
    assert Task.load("snippets:movies", evaluation=str(tmp_path / "mine.csv")).ceiling == {}
    assert Task.load("snippets:movies", validation=0.3).ceiling == {}


def test_without_the_raters_there_is_no_ceiling_and_they_are_asked_for_once_a_day(
    four: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "assets" / "raters" / assets.ASSETS["raters"].version).rename(tmp_path / "away")
    asked = []

    def refuse(name: str, *_: object) -> None:
        asked.append(name)
        raise NotFound("no network")

    monkeypatch.setattr(assets, "_obtain", refuse)
    assert Task.load("snippets:ratings", offline=True).ceiling == {}
    assert asked == []
    for name in snippets.LOADERS:
        assert Task.load(f"snippets:{name}").ceiling == {}
    assert asked == ["raters"]
    monkeypatch.setattr(assets, "PATIENCE", assets.PATIENCE * 0)
    assert Task.load("snippets:pairs").ceiling == {}
    assert asked == ["raters"] * 2
    (tmp_path / "away").rename(tmp_path / "assets" / "raters" / assets.ASSETS["raters"].version)
    assert Task.load("snippets:pairs").ceiling


def test_offline_nobody_is_asked_for_the_snippets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFINA_CACHE", str(tmp_path))
    assert not is_at_hand("snippets:pairs")
    with raises(NotFound, code="asset.unavailable", task="snippets:pairs"):
        Task.load("snippets:pairs", offline=True)
    assert not list(tmp_path.iterdir())


# The real ones


REAL: dict[str, tuple[int, int, dict[str, float]]] = {
    "ratings": (18876, 4827, {"pearson": 0.8722, "spearman": 0.8767, "rmse": 0.9066, "mae": 0.6770}),
    "domains": (18867, 4819, {}),
    "movies": (7999, 2073, {"accuracy": 0.9479}),
    "movies-3": (8423, 2182, {"accuracy": 0.8894, "f1": 0.6855}),
    "tweets": (2764, 668, {"accuracy": 0.9141}),
    "products": (2353, 632, {"accuracy": 0.9419}),
    "editorials": (2358, 612, {"accuracy": 0.8333}),
    "pairs": (5714, 1433, {"accuracy": 0.9371}),
}
"""Texts to train on and to evaluate on, and the ceiling. The numbers of texts are those of the day when the hash was
chosen: others would move users' examples between their splits."""


@pytest.fixture(scope="module")
def people(real: None) -> None:
    """The real raters too."""
    try:
        assets.fetch("raters")
    except NotFound as error:
        pytest.skip(f"the raters cannot be had here: {error}")


@pytest.mark.assets
@pytest.mark.usefixtures("people")
@pytest.mark.parametrize("name", REAL)
def test_the_real_tasks_are_divided_for_good_without_leakage_and_have_their_ceiling(name: str) -> None:
    task = Task.load(f"snippets:{name}")
    *sizes, ceiling = REAL[name]
    assert [len(task.train), len(task.evaluation), task.leaked] == [*sizes, 0]
    assert dict(task.ceiling) == pytest.approx(ceiling, abs=5e-5)
    assert not any(text != text.strip() or not text for text in [*task.train.texts, *task.evaluation.texts])
    if name == "pairs":
        check_pairs(task)
        counts = [np.bincount(split.labels).tolist() for split in (task.train, task.evaluation)]
        assert counts == [[2859, 2855], [717, 716]]


@pytest.mark.assets
@pytest.mark.usefixtures("people")
def test_the_real_marks_make_the_rating_but_for_199_tweets() -> None:
    read = snippets.read(*DOMAINS)
    marks = snippets.marks(read)
    assert Counter(one.domain for one, each in zip(read, marks, strict=True) if np.isnan(each[0])) == {"tweets": 199}
    counts = np.sum(~np.isnan(marks), axis=1)
    assert (counts[counts > 0].min(), counts.max()) == (15, 99)
    assert np.nanmin(marks) == -4
    assert np.nanmax(marks) == 4
    for place in (0, 11000, 15000, 20000):
        assert marks[place, : counts[place]].tolist() == people_of(read[place])
