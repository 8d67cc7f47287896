"""Results of ``lowc bench llm`` for people: two tables, and ratios."""

from __future__ import annotations

from typing import Any

from .. import output
from .other_load import DISTURBED


def print_record(record: dict[str, Any]) -> None:
    """Print what was measured, and how the first of lowc's stands beside the last."""
    rows, shape = record["rows"], record["shape"]
    output.result(
        f"Llama, hidden {shape['hidden_size']}, {shape['num_hidden_layers']} layers, "
        f"{shape['num_attention_heads']} heads, {shape['num_key_value_heads']} for keys and "
        f"values, feed-forward {shape['intermediate_size']}, vocabulary {shape['vocab_size']}; "
        f"{record['threads']} threads"
    )
    timed = [(part, count) for part in ("prefill", "decode") for count in rows[0][part]]
    headers = ["contender", "what", "tokens/s", "median ms", "p10", "p90", "ratio"]
    lines = []
    for part, count in timed:
        what = f"{'prompt of' if part == 'prefill' else 'step after'} {count}"
        first = rows[0][part][count]["median_ms"]
        for row in rows:
            found = row[part][count]
            lines.append(
                [
                    row["name"], what, f"{found['tokens_per_second']:.1f}",
                    *(f"{found[key]:.2f}" for key in ("median_ms", "p10_ms", "p90_ms")),
                    f"{found['median_ms'] / first:.2f}",
                ]
            )  # fmt: skip
    output.table(headers, lines, right=headers[2:])
    output.result("")
    headers = [
        "contender", "file", "load s", "first token s", "libraries s", "peak memory", "growth",
        "cosine",
    ]  # fmt: skip
    output.table(headers, [_whole(row) for row in rows], right=headers[1:])
    for part, cores in record["other_cores"].items():
        if cores is not None and cores > DISTURBED:
            output.result(f"disturbed: others took {cores:.2f} cores while {part} was timed")


def _whole(row: dict[str, Any]) -> list[str]:
    peak, growth = row["peak_bytes"], growth_of(row)
    return [
        row["name"], output.size_text(row["file_bytes"]), f"{row['load_s']:.2f}",
        f"{row['first_token_s']:.2f}", f"{row['libraries_s']:.2f}",
        "-" if peak is None else output.size_text(peak),
        "-" if growth is None else f"{growth:.2f}x", f"{row['cosine']:.4f}",
    ]  # fmt: skip


def growth_of(row: dict[str, Any]) -> float | None:
    """Return how many times as long a step takes at the largest context as at the smallest."""
    found = [figures["median_ms"] for figures in row["decode"].values()]
    return found[-1] / found[0] if len(found) > 1 else None
