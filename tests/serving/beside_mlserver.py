"""Load `lowc serve` and MLServer in turn: the same model, the same client, the same run.

MLServer has an environment of its own, anywhere outside the repository::

    python -m venv DIR && DIR/bin/pip install mlserver==1.7.1 mlserver-lightgbm==1.7.1
    python tests/serving/beside_mlserver.py --mlserver DIR --output benchmarks/serve.json

A round asks each over HTTP and gRPC: as much as goes, at half of what MLServer reaches, which is the same
rate for both, and at 300 a second.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from serving import records, trained
from serving.server import Server, serving

_MODEL = "times"
_LOW = 300  # requests a second
# Products that are asked for once each: of together about 900 tiles, another size every time.
_PRODUCTS = (
    ("f32", (1, 512, 4096, 4096)), ("f32", (1, 1024, 2048, 2048)),
    ("lmul", (1, 1024, 2048, 2048)), ("w4a16", (1, 1024, 2048, 2048)),
)  # fmt: skip


@contextlib.contextmanager
def mlserver(
    environment: Path, folder: Path, model: Path, threads: str
) -> Iterator[tuple[int, int]]:
    """Serve a LightGBM model by MLServer, in its own process; give its ports."""
    ports = (18180, 18181)
    settings = {
        "http_port": ports[0], "grpc_port": ports[1], "metrics_port": 18182, "host": "127.0.0.1",
        # One process, which is faster with a model as small as this.
        "parallel_workers": 0, "debug": False,
    }  # fmt: skip
    facts = {
        "name": _MODEL, "implementation": "mlserver_lightgbm.LightGBMModel",
        "parameters": {"uri": str(model)},
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(facts))
    log = folder / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [environment / "bin" / "mlserver", "start", folder], stdout=stream, stderr=stream,
            env={**os.environ, **({"OMP_NUM_THREADS": threads} if threads else {})},
        )  # fmt: skip
    try:
        until = time.monotonic() + 60
        while not _is_ready(f"http://127.0.0.1:{ports[0]}/v2/models/{_MODEL}/ready"):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"MLServer did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield ports
    finally:
        process.terminate()
        process.wait()


def _version(environment: Path) -> str:
    command = [environment / "bin" / "pip", "freeze"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    wanted = ("mlserver", "lightgbm", "grpcio==", "uvicorn", "uvloop")
    return ", ".join(line for line in lines if line.startswith(wanted))


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def load(port: int, seconds: float, *options: str) -> dict[str, Any]:
    """Run the load test in a process of its own; return what it says."""
    command = [
        sys.executable, "-P", "-m", "lowc.tools.serve.load", "--model", _MODEL,
        "--port", str(port), "--seconds", str(seconds), *options,
    ]  # fmt: skip
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(ran.stderr)
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def one_round(ports: dict[str, tuple[int, int]], channels: int, seconds: float) -> dict[str, Any]:
    """Ask each server, in turn, each way."""
    found: dict[str, Any] = {}
    for protocol, options in (("http", ()), ("grpc", ("--grpc", "--channels", str(channels)))):
        for what in ("saturated", "half", "low"):
            # Half of what MLServer reaches, and the same for both.
            reached = found.get(f"mlserver {protocol} saturated", {}).get("requests_per_second", 0)
            rates = {
                "saturated": [],
                "half": ["--rate", str(reached // 2)],
                "low": ["--rate", str(_LOW)],
            }
            for name, both in ports.items():
                port = both[protocol == "grpc"]
                found[f"{name} {protocol} {what}"] = load(port, seconds, *options, *rates[what])
    return found


def choosing(server: Server, turn: int, count: int = 10) -> dict[str, Any]:
    """Ask for tiles of products that were not asked before; return milliseconds and tiles."""
    times, tiles = [], []
    for call in range(count):
        add = 1 + turn * count + call
        matmuls = [
            {"form": form, "shape": [batch, m + add, n, k], "target": "cpu"}
            for form, (batch, m, n, k) in _PRODUCTS
        ]
        start = time.perf_counter()
        status, answer, _ = server.ask("/v1/choose-tiles", {"matmuls": matmuls})
        times.append(1e3 * (time.perf_counter() - start))
        assert status == 200, answer
        tiles.append(sum(one["count"] for one in answer["matmuls"]))
    return {"tiles": tiles, "ms": [round(one, 2) for one in times]}


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians over rounds, and the ratios that are asked for."""
    found: dict[str, Any] = {}
    for key in rounds[0]:
        if key != "choose-tiles":
            parts = {name for one in rounds for name in one[key] if name != "first_failure"}
            found[key] = {
                name: round(statistics.median(one[key][name] for one in rounds), 3)
                for name in sorted(parts)
            }
    for protocol in ("http", "grpc"):
        ours, theirs = (f"{name} {protocol}" for name in ("lowc", "mlserver"))
        if f"{theirs} saturated" in found:
            rates = [found[f"{one} saturated"]["requests_per_second"] for one in (ours, theirs)]
            ends = [found[f"{one} half"]["p99_ms"] for one in (ours, theirs)]
            found[f"{protocol} throughput, lowc by MLServer"] = round(rates[0] / rates[1], 2)
            found[f"{protocol} p99 at half load, lowc by MLServer"] = round(ends[0] / ends[1], 2)
    calls = [one["choose-tiles"] for one in rounds]
    found["choose-tiles, ms"] = round(statistics.median(ms for one in calls for ms in one["ms"]), 2)
    found["choose-tiles, tiles"] = statistics.median(n for one in calls for n in one["tiles"])
    return found


def main() -> int:
    """Run rounds, add them to those of the record, and print medians of all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mlserver", type=Path, required=True, help="its environment")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--workers", type=int, default=1, help="of lowc")
    parser.add_argument("--channels", type=int, default=1, help="connections of gRPC, to each")
    parser.add_argument(
        "--their-threads", default="", help="of LightGBM in MLServer; its own choice"
    )
    parser.add_argument("--output", type=Path, help="record; rounds are added to those it has")
    chosen = parser.parse_args()
    rounds: list[dict[str, Any]] = []
    if chosen.output and chosen.output.exists():
        rounds = json.loads(chosen.output.read_text())["rounds"]
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        trained.write(trained.train(100, 31), folder / "models" / _MODEL / "1")
        (folder / "mlserver").mkdir()
        options = ["--no-log-requests", "--workers", str(chosen.workers)]
        options += ["--model-repository", str(folder / "models")]
        server = stack.enter_context(serving(folder / "lowc", *options))
        model = folder / "models" / _MODEL / "1" / "model.txt"
        theirs = stack.enter_context(
            mlserver(chosen.mlserver, folder / "mlserver", model, chosen.their_threads)
        )
        ports = {"lowc": (server.port, server.grpc_port), "mlserver": theirs}
        for _ in range(chosen.rounds):
            found = one_round(ports, chosen.channels, chosen.seconds)
            rounds.append({**found, "choose-tiles": choosing(server, len(rounds))})
    both = {
        "workers": chosen.workers, "channels": chosen.channels, "mlserver": _version(chosen.mlserver),
        "their_threads": chosen.their_threads or "all cores, as MLServer starts LightGBM",
        "summary": summary(rounds),
    }  # fmt: skip
    records.write(chosen.output, {**both, "rounds": rounds})
    json.dump(both, sys.stdout, indent=2)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
