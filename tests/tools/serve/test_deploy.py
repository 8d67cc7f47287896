"""Files for operators: they name options, figures and paths that the server has."""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from layout import ROOT
from lowc.tools.serve.command import serve_command
from serving.server import Server

DEPLOY = ROOT / "deploy"


@pytest.fixture(scope="module")
def figures(server: Server) -> set[str]:
    """Return the names of all figures of a server that was asked something."""
    body = {"inputs": [{"name": "features", "datatype": "FP64", "shape": [1, 6], "data": [1] * 6}]}
    assert server.ask("/v2/models/times/infer", body)[0] == 200
    lines = server.ask("/metrics")[1].decode().splitlines()
    return {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")}


def names(text: str) -> set[str]:
    return set(re.findall(r"\blowc_serve_\w+", text))


def test_alerts(figures: set[str]) -> None:
    text = (DEPLOY / "prometheus-alerts.yml").read_text()
    (group,) = yaml.safe_load(text)["groups"]
    for rule in group["rules"]:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert names(rule["expr"]) <= figures, rule["alert"]
    assert names(text)


def test_dashboard(figures: set[str]) -> None:
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    expressions = [one["expr"] for panel in dashboard["panels"] for one in panel["targets"]]
    assert len(expressions) > 8
    for expression in expressions:
        assert names(expression)
        assert names(expression) <= figures, expression
        assert expression.count("(") == expression.count(")")


def options(command: str) -> set[str]:
    return set(re.findall(r"--[a-z-]+", command))


def test_the_unit_and_the_container_use_options_that_exist() -> None:
    known = options(CliRunner().invoke(serve_command, ["--help"]).output)
    unit = (DEPLOY / "lowc-serve.service").read_text()
    usual, empty, with_token = re.findall(r"ExecStart=(.*)", unit)
    # systemd takes one only: an empty one takes back what stands before it.
    assert empty == ""
    assert options(with_token) == options(usual) | {"--token-file"}
    for start in (usual, with_token):
        assert options(start) <= known
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment]
    parsed.read_string(unit)
    assert set(parsed) >= {"Unit", "Service", "Install"}
    container = (DEPLOY / "Containerfile").read_text()
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", container, re.MULTILINE)
    assert options(" ".join(json.loads(entry))) <= known
    for path in re.findall(r"/source/([\w.]+)", container):
        assert Path(ROOT, path).exists()
