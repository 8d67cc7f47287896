"""Without a package of the extra ``tune``, commands say which is missing; that is no failure of lowc's."""

import sys

import pytest
from lowc.tools.cli import main

FILE = "x.parquet"


@pytest.mark.parametrize(
    ("package", "what", "arguments"),
    [
        ("sqlalchemy", "a store of measurements", ("tune", "--store", "s")),
        ("sqlalchemy", "a store of measurements", ("compile", "m.pt2", "--store", "s")),
        ("sqlalchemy", "a store of measurements", ("report", "cost-model", "--store", "s")),
        ("pyarrow", "a Parquet file", ("tune", "--store", "s", "--import", FILE)),
        ("pyarrow", "a Parquet file", ("tune", "--store", "s", "--export", FILE)),
        ("pyarrow", "a Parquet file", ("report", "cost-model", "--data", FILE)),
        ("lightgbm", "fitting a cost model", ("tune", "--store", "s", "--fit", "d")),
    ],
)
def test_a_missing_package_is_named(package, what, arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    assert main(list(arguments)) == 2
    said = capsys.readouterr().err
    assert f"{what} needs {package}, which is not installed" in said
    assert "pip install 'lowc[tune]'" in said
