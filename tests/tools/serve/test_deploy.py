"""Files for operators: they name options, figures and paths that the server has."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import sys
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


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_prometheus_takes_the_alerts_and_the_dashboard_s_expressions(tmp_path: Path) -> None:
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    expressions = [one["expr"] for panel in dashboard["panels"] for one in panel["targets"]]
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$job", "x").replace("$__rate_interval", "5m")}
        for number, expression in enumerate(expressions)
    ]  # fmt: skip
    file = tmp_path / "dashboard.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    for one in (DEPLOY / "prometheus-alerts.yml", file):
        ran = subprocess.run(["promtool", "check", "rules", one], capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    ok, bad = (f'lowc_serve_requests_total{{instance="a",status="{one}"}}' for one in (200, 500))
    tests = {
        "rule_files": [str(DEPLOY / "prometheus-alerts.yml")],
        "tests": [
            {
                "interval": "30s",
                "input_series": [
                    {"series": 'lowc_serve_ready{instance="a"}', "values": "2x20 0x40"},
                    {"series": ok, "values": "0+100x60"},
                    {"series": bad, "values": "0+5x60"},
                ],
                "alert_rule_test": [
                    {"eval_time": "9m", "alertname": "LowcServeNoWorkerReady", "exp_alerts": []},
                    {
                        "eval_time": "12m",
                        "alertname": "LowcServeNoWorkerReady",
                        "exp_alerts": [
                            {
                                "exp_labels": {"severity": "critical", "instance": "a"},
                                "exp_annotations": {"summary": "a has no worker that is ready"},
                            }
                        ],
                    },
                    {
                        "eval_time": "25m",
                        "alertname": "LowcServeFails",
                        "exp_alerts": [
                            {
                                "exp_labels": {"severity": "warning", "instance": "a"},
                                "exp_annotations": {
                                    "summary": "a fails in more than 1 % of its requests"
                                },
                            }
                        ],
                    },
                ],
            }
        ],
    }
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump(tests))
    ran = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_panels_have_what_grafana_needs() -> None:
    """What its schema asks of a panel: a number, a place that no other has, a source for each query."""
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["datasource"]["uid"] == "${source}"
        letters = [one["refId"] for one in panel["targets"]]
        assert len(set(letters)) == len(letters) > 0
    assert {one["name"] for one in dashboard["templating"]["list"]} == {"source", "job"}


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """Every line is known to it; its program is one that is here."""
    text = (DEPLOY / "lowc-serve.service").read_text()
    for number, start in enumerate(
        ("ExecStart=/opt/lowc/bin/lowc", "# ExecStart=/opt/lowc/bin/lowc")
    ):
        assert start in text
        changed = (
            text.replace("# ExecStart=\n# ExecStart", "ExecStart=\nExecStart") if number else text
        )
        file = tmp_path / str(number) / "lowc-serve.service"
        file.parent.mkdir()
        file.write_text(changed.replace("/opt/lowc/bin/lowc", sys.executable))
        ran = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", file], capture_output=True, text=True
        )
        about = [line for line in ran.stderr.splitlines() if "lowc-serve" in line]
        assert not about


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
