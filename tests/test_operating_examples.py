"""The examples for operating a server agree with it: options, variables and figures; and nginx serves by its file."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, get_args

import httpx2
import pytest
import typer.main
import yaml

from afina import Adapter, Backbone, cli
from afina.cli.serving import variable_of
from afina.server.metrics import FailedPart, Metrics
from crowd import adapter
from pages import ROOT
from servers import Listening, listening, within

PLACE = ROOT / "examples" / "operating"
SERVE: Any = typer.main.get_command(cli.app).commands["serve"]  # type: ignore[attr-defined]
VARIABLES = {variable_of(option) for option in SERVE.params if option.name != "help"} | {"AFINA_CACHE"}

SECONDS_CONTAINER, SECONDS_DOCKER = 30, 10
"""After which Kubernetes, and Docker and Podman, kill what they have told to stop."""


def needs(program: str) -> str:
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{program} is not installed here (apt-get install {program})")
    return found


def accepts(words: list[str], variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `afina serve` makes of a command and its environment; fails on an option that is none."""
    assert variables.keys() <= VARIABLES
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    at = words.index("serve")
    assert Path(words[at - 1]).name == "afina"
    with SERVE.make_context("serve", words[at + 1 :], **SERVE.context_settings) as context:
        params: dict[str, Any] = context.params
    assert params["drain"] < params["shutdown"] < SECONDS_CONTAINER
    return params


def assignments(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(AFINA_\w+)=(.*)$", text, re.MULTILINE))


def unit() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", (PLACE / "afina.service").read_text(), re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


def test_the_containerfile_starts_a_server_and_its_end_comes_before_the_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (PLACE / "Containerfile").read_text().replace("\\\n", " ")
    steps = [line.partition(" ") for line in text.splitlines() if line and not line.startswith("#")]
    assert {name for name, _, _ in steps} <= {
        *("FROM", "RUN", "COPY", "USER", "WORKDIR", "VOLUME", "ENV", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT"),
        *("HEALTHCHECK",),
    }
    said = {name: value for name, _, value in steps}
    variables = dict(word.split("=", 1) for word in shlex.split(said["ENV"]))
    params = accepts(json.loads(said["ENTRYPOINT"]), variables | {"AFINA_BACKBONE": "embedded"}, monkeypatch)
    assert (params["host"], str(params["port"])) == ("0.0.0.0", said["EXPOSE"])
    assert params["shutdown"] < SECONDS_DOCKER
    assert said["USER"] == "afina"
    assert all(f"{extra}," in text or f"{extra}]" in text for extra in ("serve", "store", "traces", "guided"))
    for name, _, value in steps:
        if name == "COPY":
            *sources, _ = value.split()
            assert all((ROOT / source).exists() for source in sources)
    (extras,) = re.findall(r"/build\[([\w,]+)\]", text)
    project = (ROOT / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras.split(","))


def test_the_unit_starts_a_server_with_its_variables_and_waits_longer_than_it_takes_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said, own = unit(), assignments((PLACE / "serve.env").read_text())
    typed = dict(word.split("=", 1) for word in said["Environment"][0].split())
    params = accepts(shlex.split(said["ExecStart"][0]), typed | own, monkeypatch)
    assert params["shutdown"] < int(said["TimeoutStopSec"][0])
    assert said["RestartPreventExitStatus"] == ["2"]
    assert int(said["LimitNOFILE"][0]) >= 2 * 2000


def test_systemd_reads_the_unit_without_a_complaint(tmp_path: Path) -> None:
    program, there = needs("systemd-analyze"), shutil.which("true")
    text = (PLACE / "afina.service").read_text()
    text = re.sub(r"^ExecStart=\S+", f"ExecStart={there}", text, flags=re.MULTILINE)
    (tmp_path / "afina.service").write_text(text)
    done = subprocess.run([program, "verify", tmp_path / "afina.service"], capture_output=True, text=True)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "afina.service" in line]) == (0, [])


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((PLACE / "alerts.yml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((PLACE / "dashboard.json").read_text())["panels"]
    return found


EXPRESSIONS = {
    **{rule["alert"]: [rule["expr"]] for rule in rules()},
    **{panel["title"]: [one["expr"] for one in panel["targets"]] for panel in panels()},
}
MADE = {"instance", "job", "le"}
"""Labels that Prometheus adds, and that a histogram's buckets have."""


@pytest.fixture(scope="module")
def served_figures(gpt2: Backbone, tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], dict[str, set[str]]]:
    """Names that a server's `/metrics` has, and the labels that each may have."""
    crowd = {"acme/reviews@1": adapter(gpt2, "lora", {"r": 2})}
    with listening(gpt2, crowd, tmp_path_factory.mktemp("figures")) as server:
        headers = {"Authorization": f"Bearer {server.secrets['acme-admin']}"}
        text = httpx2.get(f"http://127.0.0.1:{server.port}/metrics", headers=headers, timeout=20).text
        figures = server.core.metrics
    kinds = dict(re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE))
    ends = {"histogram": ("_bucket", "_sum", "_count")}
    names = {f"{name}{end}" for name, kind in kinds.items() for end in ends.get(kind, ("",))}
    return names, {name: _labels_of(figures, re.sub(r"_(total|bucket|sum|count)$", "", name)) for name in names}


def _labels_of(figures: Metrics, name: str) -> set[str]:
    for one in (*vars(figures).values(), *vars(figures.usage).values()):
        if getattr(one, "_name", None) == name:
            return set(one._labelnames)
    return set()


@pytest.mark.parametrize("title", EXPRESSIONS)
def test_alerts_and_panels_ask_for_figures_and_labels_that_a_server_has(title: str, served_figures: Any) -> None:
    names, labels = served_figures
    for expression in EXPRESSIONS[title]:
        asked = set(re.findall(r"\bafina_\w+", expression))
        assert asked <= names, asked - names
        may_have = MADE.union(*(labels[name] for name in asked))
        assert asked or expression.startswith("up{")
        for inside in re.findall(r"\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", inside)) <= may_have
        for inside in re.findall(r"\bby \(([^)]*)\)", expression):
            assert {word.strip() for word in inside.split(",")} <= may_have


def test_the_page_of_operators_names_figures_that_a_server_has(served_figures: Any) -> None:
    page = (ROOT / "docs" / "reference" / "operating.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:afina|process)_[a-z_]+)", page))
    kinds = {re.sub(r"_(bucket|sum|count)$", "", name) for name in served_figures[0]}
    assert len(named) >= 10
    assert named <= kinds


def test_every_alert_says_what_it_is_about_and_no_two_panels_lie_on_each_other() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert "{{ $labels.instance }}" in rule["annotations"]["summary"]
        by = re.findall(r"\bby \(([^)]*)\)", rule["expr"])
        used = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        assert all(used <= {word.strip() for word in one.split(",")} for one in by)
    places = [tuple(panel["gridPos"][side] for side in "xy") for panel in panels()]
    assert len({*places}) == len(places)
    scrape = yaml.safe_load((PLACE / "prometheus.yml").read_text())
    assert scrape["rule_files"] == ["alerts.yml"]
    assert scrape["scrape_configs"][0]["job_name"] == "afina"


def test_prometheus_reads_the_alerts(tmp_path: Path) -> None:
    program = needs("promtool")
    for words in (["rules", "alerts.yml"], ["config", "--syntax-only", "prometheus.yml"]):
        done = subprocess.run([program, "check", *words], cwd=PLACE, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("alert", "sample"),
    [
        *[("AfinaFails", f'afina_failures_total{{what="{what}"}}') for what in get_args(FailedPart)],
        ("AfinaProbeFailed", 'afina_probes_total{outcome="failed"}'),
        ("AfinaVersionIsDamaged", 'afina_probes_total{outcome="damaged"}'),
        ("AfinaHasNoConnectionsLeft", 'afina_connections_closed_total{reason="full"}'),
    ],
)
def test_an_alert_fires_at_the_first_failure(alert: str, sample: str, tmp_path: Path) -> None:
    """A sample that begins with the failure is no increase."""
    before = "0 0" if f"{sample} 0.0" in Metrics().text().decode().splitlines() else "_ _"
    series = sample.replace("{", '{instance="a",')
    test = {
        "rule_files": [str(PLACE / "alerts.yml")],
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": series, "values": f"{before} 1 1 1"}],
                "promql_expr_test": [
                    {
                        "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})',
                        "eval_time": "4m",
                        "exp_samples": [{"labels": "{}", "value": 1}],
                    }
                ],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test))
    done = subprocess.run(
        [needs("promtool"), "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def server(gpt2: Backbone, tmp_path: Path) -> Iterator[Listening]:
    crowd: dict[str, Adapter] = {"acme/reviews@1": adapter(gpt2, "lora", {"r": 2})}
    with listening(gpt2, crowd, tmp_path) as made:
        yield made


@contextmanager
def proxy(server: Listening, place: Path) -> Iterator[tuple[int, ssl.SSLContext]]:
    """nginx with the example's file, but for ports and certificates, before a server; its port, and whom to trust."""
    program, openssl = needs("nginx"), needs("openssl")
    key, certificate = place / "key.pem", place / "certificate.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    text = (PLACE / "nginx.conf").read_text()
    for old, new in (
        ("server 127.0.0.1:8000;", f"server 127.0.0.1:{server.port};"),
        ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        ("/etc/afina/tls/fullchain.pem", str(certificate)),
        ("/etc/afina/tls/privkey.pem", str(key)),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    temporary = "".join(f"{kind}_temp_path {place};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    main = f"daemon off; master_process off; pid {place}/pid; error_log stderr;\nevents {{}}\n"
    (place / "main.conf").write_text(f"{main}http {{\naccess_log off;\n{temporary}{text}}}\n")
    words = [program, "-p", str(place), "-e", "stderr", "-c", str(place / "main.conf")]
    tested = subprocess.run([*words, "-t"], capture_output=True, text=True)
    assert tested.returncode == 0, tested.stderr
    assert "[warn]" not in tested.stderr
    running = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        yield port, ssl.create_default_context(cafile=str(certificate))
    finally:
        running.terminate()
        running.communicate(timeout=20)


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def test_nginx_serves_over_tls_by_the_example_and_lets_lines_through_as_they_come(
    server: Listening, tmp_path: Path
) -> None:
    place = tmp_path / "nginx"
    place.mkdir()
    headers = {"Authorization": f"Bearer {server.secrets['acme']}"}
    with proxy(server, place) as (port, trusted):
        assert within(10, lambda: listens(port))
        url = f"https://localhost:{port}"
        body = {"inputs": "the soup was bright.", "model": "acme/reviews"}
        with httpx2.Client(verify=trusted, headers=headers, timeout=20) as client:
            answer = client.post(f"{url}/predict", json=body)
            assert answer.status_code == 200, answer.text
            assert answer.headers["afina-receipt"]
            assert client.get(f"{url}/health/ready").status_code == 200
            assert client.get(f"{url}/metrics").status_code == 404
            large = client.post(f"{url}/predict", content=b" " * (1 << 20 | 1))
            assert (large.status_code, large.json()["error_type"]) == (413, "Validation")
        line = json.dumps({"text": "the soup was bright."}).encode() + b"\n"
        answered = b""
        plain = socket.create_connection(("127.0.0.1", port), timeout=20)
        with trusted.wrap_socket(plain, server_hostname="localhost") as connection:
            connection.sendall(server.head(path="/bulk?model=acme/reviews"))
            until = time.perf_counter() + 20
            connection.settimeout(0.2)
            while b"label" not in answered and time.perf_counter() < until:  # its body goes on
                connection.sendall(b"%x\r\n%s\r\n" % (len(line), line))
                with suppress(TimeoutError):
                    answered += connection.recv(65536)
        assert b"label" in answered
