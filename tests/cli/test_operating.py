"""A server as an operator has it: what it is told by the environment."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Any

import pytest
import typer.main

from afina import Backbone, cli
from afina.cli import serving
from afina.server import logs_and_traces
from command import Command
from servers import logged

SERVE: Any = typer.main.get_command(cli.app).commands["serve"]  # type: ignore[attr-defined]
OPTIONS = [option for option in SERVE.params if option.name != "help"]
GIVEN = {
    **{"AFINA_BACKBONE": "embedded", "AFINA_STORE": "adapters", "AFINA_HOST": "0.0.0.0", "AFINA_PORT": "9000"},
    **{"AFINA_DTYPE": "bfloat16", "AFINA_MEMORY": "512", "AFINA_RATE": "60000", "AFINA_TIMEOUT": "7.5"},
    **{"AFINA_BATCH_TOKENS": "2048", "AFINA_SHARED_TOKENS": "128", "AFINA_DRAIN": "5", "AFINA_SHUTDOWN": "20"},
    **{"AFINA_GENERATION_TIMEOUT": "90", "AFINA_MAX_NEW_TOKENS": "256", "AFINA_KEY_SECONDS": "60"},
    **{"AFINA_LOG_FORMAT": "text", "AFINA_CREATE": "True", "AFINA_PRELOAD": "acme/reviews acme/tags"},
    **{"AFINA_WHOLE_TOKENS": "512", "AFINA_PUBLIC_DESCRIPTION": "True"},
    **{"AFINA_RAY": "True", "AFINA_RAY_ADDRESS": "10.0.0.1:6379", "AFINA_REPLICAS": "1:4"},
}


def test_every_option_is_read_from_its_variable_and_a_typed_one_comes_before(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)
    with SERVE.make_context("serve", [], **SERVE.context_settings) as context:
        found = {serving.variable_of(option): context.params[option.name] for option in OPTIONS}
        found["AFINA_PRELOAD"] = " ".join(found["AFINA_PRELOAD"])
    assert found.keys() == GIVEN.keys()
    assert {name: str(value) for name, value in found.items() if not isinstance(value, float)} == {
        name: value for name, value in GIVEN.items() if not isinstance(found[name], float)
    }
    assert {name: float(value) for name, value in GIVEN.items() if isinstance(found[name], float)} == {
        name: value for name, value in found.items() if isinstance(value, float)
    }
    with SERVE.make_context("serve", ["--port", "1"], **SERVE.context_settings) as context:
        assert context.params["port"] == 1


def test_help_names_the_variable_of_every_option(afina: Command) -> None:
    shown = "".join(afina("serve", "--help").out.split())
    for name in GIVEN:
        assert f"[envvar:{name}" in shown, name


@pytest.fixture
def _plain_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log of the tests' own process stays as it is."""
    monkeypatch.setattr(logs_and_traces, "begin_logging", lambda form: None)


@pytest.mark.usefixtures("_plain_log")
@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"AFINA_PORT": "http"}, "The variable AFINA_PORT is 'http'."),
        ({"AFINA_PORT": "70000"}, "The variable AFINA_PORT is '70000'."),
        ({"AFINA_LOG_FORMAT": "xml"}, "The variable AFINA_LOG_FORMAT is 'xml'."),
        ({"AFINA_DRAIN": "30"}, "--drain is 30 seconds and --shutdown is 25."),
        ({"AFINA_TIMEOUT": "inf"}, "--timeout is inf, not a finite number. Give a number of seconds."),
        ({"AFINA_HOST": "no.such.host.invalid"}, "host no.such.host.invalid: unknown address."),
    ],
)
def test_a_variable_with_a_wrong_value_is_named_before_anything_is_loaded(
    afina: Command, gpt2: Backbone, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    answer = afina("serve", "--backbone", "no/such/backbone")
    assert answer.code == 2
    assert said in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.usefixtures("_plain_log")
def test_a_port_that_is_in_use_is_said_before_anything_is_loaded(afina: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = afina("serve", "--backbone", "no/such/backbone", "--port", port).error
    told = (
        f"port {port} on 127.0.0.1: another process listens there. Give another port with --port, or end the process."
    )
    assert error == told


@pytest.mark.usefixtures("_plain_log")
def test_a_variable_that_is_no_setting_is_told(
    afina: Command, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("AFINA_TIMOUT", "AFINA_SERVICE_HOST", "AFINA_PORT_8000_TCP"):  # the latter two are Kubernetes'
        monkeypatch.setenv(name, "7")
    assert "no/such/backbone" in afina("serve", "--create", "--backbone", "no/such/backbone", "--port", 0).error
    assert [(one["level"], one["message"]) for one in logged(caplog)] == [
        ("warning", "AFINA_TIMOUT is set, but `afina serve` does not read this variable")
    ]


def test_it_serves_where_nobody_reads_what_it_prints(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "afina.server")
    reader, writer = os.pipe()
    os.close(reader)
    closed = os.fdopen(writer, "w")
    monkeypatch.setattr("sys.stdout", closed)
    serving._say("adapters", "http://127.0.0.1:8000")
    monkeypatch.undo()
    with suppress(OSError):
        closed.close()
    assert [(one["message"], one["url"]) for one in logged(caplog)] == [("serving", "http://127.0.0.1:8000")]
