"""One stem everywhere: file, name, IR test and page; and every pass keeps the contract."""

from __future__ import annotations

import dataclasses

import pytest
from layout import ROOT
from lowc.errors import UserError
from lowc.passes import registry
from lowc.passes.base import PREFIX, Pass
from lowc.passes.outline_kernels import FAMILIES
from lowc.tools import docs, docstring

NAMES = sorted(registry.PASSES)
# What stands in passes/ beside the passes themselves, and the families of kernels.
SUPPORT = {
    "__init__", "add_elementwise", "add_operands", "add_products", "additive", "annotations", "attention_heads",
    "base", "binary_weights", "bipolar_products", "build", "code_values", "contraction",
    "cache_blocks", "cache_rows", "cache_scatters", "digit_products", "dispatch_matmul", "dispatch_records", "epilogues", "forms", "gpus",
    "instruments", "integer_products", "integer_tables", "chain_products", "joint_products", "look_ups", "matrices", "more_results", "options",
    "outline_dequant_gpu", "outline_integer_gpu", "outline_planes", "outline_threads", "parameters",
    "registry", "row_norms",
    "runner", "shared_panels", "shift_add", "shift_add_weights", "shift_products", "signed_sums", "state",
    "table_products",
    "trit_tables", "weight_rows",
}  # fmt: skip


def stem(name: str) -> str:
    return name.removeprefix(PREFIX).replace("-", "_")


@pytest.mark.parametrize("name", NAMES)
def test_one_stem(name: str) -> None:
    module = registry.PASSES[name].partition(":")[0]
    assert module == stem(name)
    assert (ROOT / "passes" / f"{module}.py").exists()
    assert (ROOT / "tests/filecheck/passes" / f"{name.removeprefix(PREFIX)}.mlir").exists()
    assert f"\n## {name}\n" in (ROOT / "docs/passes.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_the_contract(name: str) -> None:
    found = registry.pass_class(name)
    assert issubclass(found, Pass)
    assert found.name == name
    assert found.__name__ == "".join(part.capitalize() for part in stem(name).split("_"))
    assert dataclasses.is_dataclass(found)
    assert found.__dataclass_params__.frozen
    assert found() == found(), "every option has a default"
    assert found.run is not Pass.run
    assert found.__doc__ is not None
    assert docstring.is_documented(found), "the docstring shows no Before:: and After::"
    assert all(option.description for option in docstring.describe(name).options)


def test_every_pass_file_is_registered() -> None:
    files = {path.stem for path in (ROOT / "passes").glob("*.py")} - SUPPORT
    families = {family.__name__.rpartition(".")[2] for family in FAMILIES}
    assert files - families == {stem(name) for name in NAMES}


def test_every_ir_test_is_of_a_pass() -> None:
    # What a pass does to one family of products may have a file of its own: PASS.family.mlir.
    files = (ROOT / "tests/filecheck/passes").glob("*.mlir")
    tests = {path.name.partition(".")[0] for path in files}
    assert tests == {name.removeprefix(PREFIX) for name in NAMES}


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / "docs/passes.md").read_text() == docs.markdown(), "run `make docs`"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("lowc-name-matmul", "did you mean 'lowc-name-matmuls'?"),
        ("lowc-fuse", "did you mean 'lowc-fuse-dequant'?"),
        ("xyzzy", "known: lowc-assign-forms, "),
    ],
)
def test_an_unknown_pass_names_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        registry.pass_class(name)
    assert caught.value.what == f"there is no pass '{name}'"
    assert caught.value.hint.startswith(hint)
