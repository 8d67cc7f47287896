"""``lowc passes``: what passes there are, their options, and what they do to the IR."""

from __future__ import annotations

import dataclasses

import click

from ..errors import UserError
from . import docstring, output
from .docs import markdown as markdown_page


@click.command("passes")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", is_flag=True, help="Print the page docs/passes.md.")
def passes_command(name: str | None, as_json: bool, markdown: bool) -> None:
    """List lowc's passes, or show what the pass NAME does, before and after.

    The passes of MLIR and IREE can be used beside them; 'iree-opt --help' lists those.
    """
    if markdown and (name or as_json):
        raise UserError("--markdown prints the whole page", where="lowc passes")
    if markdown:
        output.result(markdown_page().rstrip("\n"))
        return
    described = [docstring.describe(name)] if name else docstring.describe_all()
    if as_json:
        data = [dataclasses.asdict(one) for one in described]
        output.result_json(data[0] if name else data)
    elif name:
        _show(described[0])
    else:
        output.table(
            ["pass", "options", "what it does"],
            [[d.name, "\n".join(map(str, d.options)), d.summary] for d in described],
        )


def _show(described: docstring.PassDoc) -> None:
    output.result(f"{described.name}\n\n{described.text}")
    if described.options:
        output.result("\nOptions:")
    for option in described.options:
        output.result(f"  {option}")
        if option.description:
            output.result(f"      {option.description}")
