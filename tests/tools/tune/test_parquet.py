"""Parquet: what is written reads back, and a stranger's file is checked row by row."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lowc.errors import UserError
from lowc.tools.tune import parquet
from products.measurements import records


def rows(path):
    return pq.read_table(path).to_pylist()


def test_there_and_back(tmp_path):
    path = tmp_path / "tiles.parquet"
    some = [*records(), *records("r2", form="shift-add")]
    assert parquet.write(some, path) == 8
    assert list(parquet.read(path)) == some
    first = rows(path)[0]
    assert (first["form"], first["m"], first["n"], first["k"]) == ("f32", 64, 64, 64)
    assert parquet.write([], path) == 0
    assert list(parquet.read(path)) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"problem": '{"form":"f32"}'}, "this is no record: a problem lacks a field"),
        ({"problem": "?"}, "this is no record: "),
        ({"machine": "{}"}, "this is no record: a machine lacks a field"),
        ({"versions": "[]"}, "this is no record: versions are a JSON object"),
        ({"tiling": "large"}, "'large' is no tile"),
        ({"outcome": "fine"}, "'fine' is no outcome"),
        ({"seconds": -1.0}, "'seconds' cannot be -1.0"),
        ({"p90": float("nan")}, "'p90' cannot be nan"),
        ({"seconds": 0.0}, "only what is 'ok' has a time"),
        ({"note": None}, "'note' is empty"),
    ],
)
def test_rows_that_are_no_records(change, message, tmp_path):
    path = tmp_path / "tiles.parquet"
    parquet.write(records()[:3], path)
    table = pq.read_table(path)
    changed = table.to_pylist()
    changed[1].update(change)
    pq.write_table(pa.Table.from_pylist(changed, schema=table.schema), path)
    with pytest.raises(UserError) as error:
        list(parquet.read(path))
    assert str(error.value).startswith(f"{path}, row 2: {message}")


def test_other_files(tmp_path):
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1 but no more")
    with pytest.raises(UserError, match="this is no Parquet file"):
        list(parquet.read(path))
    pq.write_table(pa.table({"problem": ["x"]}), path)
    with pytest.raises(UserError, match="the column 'blocks' is missing"):
        list(parquet.read(path))
    with pytest.raises(UserError, match="none: there is no such file"):
        list(parquet.read(tmp_path / "none"))
    with pytest.raises(UserError, match="this is no Parquet file"):
        list(parquet.read(tmp_path))
