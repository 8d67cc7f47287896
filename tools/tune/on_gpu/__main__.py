"""``python -m lowc.tools.tune.on_gpu``: compile a bundle, and keep what was measured of it.

::

    python -m lowc.tools.tune.on_gpu prepare bundle          # here, where the compiler is
    python bundle/collect.py bundle -o results.json          # there, with IREE's runtime alone
    python -m lowc.tools.tune.on_gpu records results.json records.parquet
    lowc tune --import records.parquet
"""

from __future__ import annotations

import fnmatch
from pathlib import Path

import click

from ... import output
from . import suites


@click.group(help="Measure lowc's kernels on a CUDA device of another machine.")
def main() -> None:
    """Gather the two steps that need the compiler, or its store."""


@main.command(short_help="compile a bundle")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--suite", type=click.Choice(sorted(suites.SUITES)), default="figures", help="What.")
@click.option("--only", metavar="GLOB", default="*", help="Of these groups of cases only.")
@click.option("--target", default="cuda", show_default=True, help="What code is generated for.")
def prepare(folder: Path, suite: str, only: str, target: str) -> None:
    """Compile the cases of a suite into FOLDER, with collect.py, which measures them."""
    from .prepare import prepare as compile_all

    cases = [case for case in suites.SUITES[suite]() if fnmatch.fnmatch(case.group, only)]
    compile_all(cases, folder, target, output.remark, with_stock=suite == "figures")
    output.remark(f"python {folder}/collect.py {folder} -o results.json")


@main.command(short_help="write what `lowc tune --import` reads")
@click.argument("results", type=click.Path(path_type=Path, exists=True))
@click.argument("parquet", type=click.Path(path_type=Path))
def records(results: Path, parquet: Path) -> None:
    """Turn the RESULTS of collect.py into records of tiles."""
    from .. import parquet as files
    from .records import read

    found = read(results)
    files.write(found, parquet)
    output.remark(f"{len(found)} records in {parquet}")


if __name__ == "__main__":
    main()
