"""What `afina studio` refuses before it listens, and the address that it prints."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from afina.cli.studio import _say
from afina.studio.access import Access, set_password
from afina.studio.folder import StudioFolder
from command import Command


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("0.0.0.0", "no password"),
        ("no.such.host.invalid", "no password"),
        ("", "is empty"),
        ("::1%nowhere", "::1%nowhere"),
    ],
)
def test_a_host_that_cannot_be_used_is_said_in_a_sentence(
    afina: Command, tmp_path: Path, host: str, words: str
) -> None:
    assert words in afina("studio", tmp_path / "studio", "--host", host).error


def test_a_host_that_is_unknown_is_said_in_a_sentence(afina: Command, tmp_path: Path) -> None:
    folder = StudioFolder(tmp_path)
    folder.own.mkdir()
    set_password(folder, "a long password")
    assert "unknown address" in afina("studio", tmp_path, "--host", "no.such.host.invalid").error


@pytest.mark.parametrize(("host", "has_token"), [("127.0.0.1", True), ("0.0.0.0", False)])
def test_only_the_address_of_a_studio_without_a_password_has_a_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], host: str, has_token: bool
) -> None:
    _say(who := Access(StudioFolder(tmp_path), host, 8765))
    assert capsys.readouterr().out == f"studio: {who.address}{f'?token={who.token}' * has_token}\n"


def test_a_second_studio_on_the_folder_or_the_port_is_refused_in_a_sentence(afina: Command, tmp_path: Path) -> None:
    with StudioFolder(tmp_path / "studio").locked(), socket.create_server(("127.0.0.1", 0)) as first:
        assert "another `afina studio`" in afina("studio", tmp_path / "studio").error
        port = first.getsockname()[1]
        assert "another process listens" in afina("studio", tmp_path / "other", "--port", port).error
