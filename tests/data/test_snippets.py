"""The snippets: which texts are kept, what they are called, and how they are divided."""

import random
from pathlib import Path

import pytest

from afina import assets
from afina.data.readers import snippets
from afina.data.readers.targets import splits
from afina.data.split import normalised
from afina.data.task import Task, count_leaked
from afina.errors import NotFound, UnknownName

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
    return folder


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
    with pytest.raises(UnknownName, match=r"unknown task 'snippets:movie'\. Did you mean 'snippets:movies'\?"):
        Task.load("snippets:movie")


@pytest.fixture(scope="module")
def real() -> None:
    """The real snippets, in the user's cache."""
    try:
        assets.fetch("snippets")
    except NotFound as error:
        pytest.skip(f"the snippets cannot be had here: {error}")


@pytest.mark.assets
@pytest.mark.usefixtures("real")
@pytest.mark.parametrize(
    ("domain", "sizes"),
    # What Task.load gave when the hash was chosen: other sizes would move users' examples between their splits.
    [("movies", (7999, 2073)), ("tweets", (2764, 668)), ("products", (2353, 632)), ("editorials", (2358, 612))],
)
def test_the_real_snippets_are_divided_for_good_without_leakage(domain: str, sizes: tuple[int, int]) -> None:
    task = Task.load(f"snippets:{domain}")
    assert (len(task.train), len(task.evaluation)) == sizes
    assert task.label_names == ("negative", "positive")
    assert task.leaked == 0
    assert 0.3 < task.evaluation.labels.mean() < 0.75
    assert not any(text != text.strip() or not text for text in [*task.train.texts, *task.evaluation.texts])


@pytest.mark.assets
@pytest.mark.usefixtures("real")
def test_a_random_split_of_the_tweets_would_leak() -> None:
    rows = snippets.rows("tweets")
    order = list(range(len(rows)))
    random.Random(0).shuffle(order)
    cut = len(order) // 5
    found = splits(rows.take(order[cut:]), rows.take(order[:cut]))
    assert 0.03 < count_leaked(found.train, found.evaluation) / len(found.evaluation) < 0.08


@pytest.mark.assets
@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="SST-2 is not in ../shared/data")
@pytest.mark.usefixtures("real")
def test_most_validation_sentences_of_sst2_occur_in_the_movie_snippets() -> None:
    path = assets.fetch("snippets") / "movieReviewSnippets_GroundTruth.txt"
    snippets = {normalised(line.split("\t", 2)[2]) for line in path.read_text(encoding="utf-8").splitlines()}
    validation = (SHARED / "dev.tsv").read_text(encoding="utf-8").splitlines()[1:]
    assert sum(normalised(line.split("\t")[0]) in snippets for line in validation) == 732
