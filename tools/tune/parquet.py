"""Measurements as Parquet files, to share and to look at: one row each.

Problem, machine and versions are JSON, as in a store; form, lowering and sizes stand beside them
as columns of their own, for those who look, and are not read back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...passes.tiling.problem import Problem
from ...passes.tiling.record import Machine, Record
from .. import output
from .store import checked

MOST_ROWS = 10_000_000
_TEXTS = ("problem", "tiling", "machine", "outcome", "round", "when", "versions", "note")
_FLOATS = ("seconds", "p10", "p90", "spread")
_INTEGERS = ("blocks", "calls")
_SHOWN = ("form", "lowering", "unit", "batch", "m", "n", "k")


def write(records: Iterable[Record], path: Path) -> int:
    """Write `records` to `path`, in the place of what was there; return how many they were."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [_row(record) for record in records]
    columns = [(name, pa.string()) for name in (*_TEXTS, *_SHOWN[:3])]
    columns += [(name, pa.float64()) for name in _FLOATS]
    columns += [(name, pa.int64()) for name in (*_INTEGERS, *_SHOWN[3:])]
    table = pa.Table.from_pylist(rows, schema=pa.schema(columns))
    output.write_atomically(path, lambda file: pq.write_table(table, file, compression="zstd"))
    return len(rows)


def read(path: Path) -> Iterator[Record]:
    """Yield the records of `path`.

    Raises
    ------
    UserError
        When it cannot be read, is no Parquet file, lacks a column, or has a row that can be no
        record.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = [*_TEXTS, *_FLOATS, *_INTEGERS]
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise UserError("there is no such file", where=str(path)) from error
        if isinstance(error, IsADirectoryError | PermissionError):
            raise UserError("this file cannot be read", where=str(path)) from error
        raise UserError(
            "this is no Parquet file", where=str(path), detail=" ".join(str(error).split())[:200]
        ) from error
    with file:
        missing = sorted(set(wanted) - set(file.schema_arrow.names))
        if missing:
            raise UserError(
                f"the column '{missing[0]}' is missing", where=str(path),
                hint="'lowc tune --export' writes such files",
            )  # fmt: skip
        if file.metadata.num_rows > MOST_ROWS:
            raise UserError(f"more than {MOST_ROWS} rows are too many", where=str(path))
        number = 0
        for batch in file.iter_batches(columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield _record(row, f"{path}, row {number}")


def _row(record: Record) -> dict[str, Any]:
    problem = record.problem
    return {
        "problem": problem.to_json(),
        "tiling": record.tiling,
        "machine": record.machine.to_json(),
        "outcome": record.outcome,
        "round": record.round,
        "when": record.when,
        "versions": json.dumps(dict(record.versions), sort_keys=True),
        "note": record.note,
        **{name: getattr(record, name) for name in (*_FLOATS, *_INTEGERS)},
        **{name: getattr(problem, name) for name in _SHOWN},
    }


def _record(row: dict[str, Any], where: str) -> Record:
    empty = [name for name, value in row.items() if value is None]
    if empty:
        raise UserError(f"'{empty[0]}' is empty", where=where)
    try:
        versions = json.loads(row["versions"])
        if not isinstance(versions, dict):
            raise ValueError("versions are a JSON object")
        found = Record(
            problem=Problem.from_json(row["problem"]),
            machine=Machine.from_json(row["machine"]),
            versions={str(name): str(value) for name, value in versions.items()},
            **{
                name: row[name]
                for name in ("tiling", "outcome", "round", "when", "note", *_FLOATS, *_INTEGERS)
            },
        )
    except (ValueError, TypeError) as error:
        raise UserError(f"this is no record: {error}", where=where) from error
    return checked(found, where)
