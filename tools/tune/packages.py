"""Packages that come with lowc's extra ``tune``, and what is said where one is missing."""

from __future__ import annotations

import importlib

from ...errors import UserError

STORE = ("a store of measurements", "sqlalchemy")
PARQUET = ("a Parquet file", "pyarrow")
FITTING = ("fitting a cost model", "lightgbm", "sklearn")


def need(what: str, *packages: str) -> None:
    """Raise a UserError unless the packages that `what` needs can be imported."""
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UserError(
                f"{what} needs {error.name or package}, which is not installed",
                hint="pip install 'lowc[tune]'",
            ) from error
