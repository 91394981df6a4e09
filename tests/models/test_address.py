"""What an address is made into, once, in the cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from afina.assets import ASSETS
from afina.errors import InvalidStudy, NotFound
from afina.models.architectures.well_known import WELL_KNOWN
from afina.models.backbone_spec import PACKAGED, backbone_revision, check_backbone, directory_of
from afina.models.pretrained import locate
from fakes import Backbones
from raises import raises

LOCATE = """
import sys
from afina.models.pretrained import locate
path = locate(sys.argv[1])
print(path, path.stat().st_ino)
"""


@pytest.mark.slow
def test_processes_that_want_the_same_weights_at_once_get_the_one_directory_that_the_first_made(
    backbones: Backbones, tmp_path: Path
) -> None:
    address = f"random:{backbones.path('gpt2')}"
    environment = os.environ | {"AFINA_CACHE": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", LOCATE, address]
    several = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    found = {process.communicate()[0] for process in several}
    assert [process.returncode for process in several] == [0, 0, 0]
    assert len(found) == 1, found
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [Path(found.pop().split()[0]).name]


@pytest.mark.parametrize("name", PACKAGED)
def test_a_packaged_model_is_known_without_its_weights(name: str) -> None:
    check_backbone(name)
    assert directory_of(name) is None
    assert backbone_revision(name) == f"sha256:{ASSETS[PACKAGED[name]].sha256}"
    assert name in WELL_KNOWN


@pytest.mark.parametrize("name", PACKAGED)
def test_a_directory_of_a_packaged_models_name_is_refused_if_it_has_a_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    assert directory_of(name) is None
    (tmp_path / name / "config.json").write_text("{}")
    for use in (check_backbone, directory_of, backbone_revision, locate):
        with raises(InvalidStudy, code="backbone.ambiguous", backbone=name):
            use(name)
    assert directory_of(f"./{name}") == Path(name)


@pytest.mark.parametrize(
    "address", ["a" * 100_000, "/" + "a/" * 50_000, "random:" + "a" * 100_000, "a" * 5000 + "@main"]
)
def test_an_address_that_is_longer_than_any_path_is_refused_in_a_few_words(address: str) -> None:
    with pytest.raises(NotFound) as refused:
        locate(address)
    assert refused.value.code == "backbone.missing"
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("address", ["/" + "a" * 300, "random:" + "a" * 300, "a/" * 2000])
def test_a_path_whose_names_are_longer_than_the_system_allows_does_not_exist(address: str) -> None:
    with raises(NotFound, code="backbone.missing"):
        locate(address)
