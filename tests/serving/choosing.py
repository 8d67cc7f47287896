"""How long `/v1/choose-tiles` takes: `python tests/serving/choosing.py --output FILE` asks a server.

Each request has five products that nobody asked for before, of together about 1,000 tiles.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from serving import records
from serving.server import serving

_PRODUCTS = (
    ("f32", (1, 1024, 2048, 2048)), ("f32", (1, 1024, 2048, 4096)), ("lmul", (1, 1024, 2048, 2048)),
    ("w4a16", (1, 1024, 2048, 2048)), ("f32", (1, 128, 1536, 384)),
)  # fmt: skip


def products(number: int) -> list[dict[str, object]]:
    """Return the products of a request; those of each `number` are others."""
    return [
        {"form": form, "shape": [batch, m + number, n, k + 64 * number]}
        for form, (batch, m, n, k) in _PRODUCTS
    ]


def ask(connection: http.client.HTTPConnection, number: int) -> tuple[float, int]:
    """Return the milliseconds of an answer, and how many tiles it was chosen from."""
    body = json.dumps({"matmuls": products(number)})
    begun = time.perf_counter()
    connection.request("POST", "/v1/choose-tiles", body, {"content-type": "application/json"})
    answer = connection.getresponse()
    said = answer.read()
    taken = time.perf_counter() - begun
    if answer.status != 200:
        raise SystemExit(f"{answer.status}: {said[:200]!r}")
    return 1e3 * taken, sum(one["count"] for one in json.loads(said)["matmuls"])


def main() -> int:
    """Ask a server of its own, and write what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        for number in range(5):  # what is read once
            ask(connection, number)
        new = [ask(connection, number) for number in range(5, 5 + chosen.count)]
        again = [ask(connection, number)[0] for number in range(5, 5 + chosen.count)]
    times = sorted(taken for taken, _ in new)
    found = {
        "requests": len(new), "tiles": statistics.median(tiles for _, tiles in new),
        "p50_ms": round(statistics.median(times), 2), "least_ms": round(times[0], 2),
        "p90_ms": round(times[int(0.9 * len(times))], 2),
        "microseconds_a_tile": round(statistics.median(1e3 * ms / tiles for ms, tiles in new), 2),
        "again_p50_ms": round(statistics.median(again), 2),
    }  # fmt: skip
    sys.stdout.write(f"{found}\n")
    records.write(chosen.output, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
