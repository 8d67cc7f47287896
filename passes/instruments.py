"""Hooks around passes: numbered IR dumps and timing.  Passes know nothing of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from iree.compiler import ir

ELIDE_ABOVE = 32  # elements of a dense constant that are still printed


def readable_ir(module: ir.Module) -> str:
    """Return the module as text for people, with large constants elided."""
    return str(module.operation.get_asm(large_elements_limit=ELIDE_ABOVE))


@dataclass
class DumpIR:
    """Writes ``00-input.mlir``, ``01-lowc-name-matmuls.mlir`` … into `folder`."""

    folder: Path

    def before(self, index: int, text: str, module: ir.Module) -> None:
        """Write the input of the first pass."""
        if index == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "00-input.mlir").write_text(readable_ir(module))

    def after(self, index: int, text: str, module: ir.Module, seconds: float) -> None:
        """Write what a pass left."""
        stem = re.sub(r"[^\w.-]+", "-", text.partition("{")[0]).strip("-")
        path = self.folder / f"{index + 1:02d}-{stem}.mlir"
        path.write_text(f"// {text}\n" + readable_ir(module))


@dataclass
class PrintIR:
    """Prints the IR after each pass, as ``--print-ir-after-all`` does."""

    write: Callable[[str], object]

    def before(self, index: int, text: str, module: ir.Module) -> None:
        """Do nothing."""

    def after(self, index: int, text: str, module: ir.Module, seconds: float) -> None:
        """Print what a pass left."""
        self.write(f"// -----// IR Dump After {text} //----- //\n{readable_ir(module)}\n")


@dataclass
class Timing:
    """Collects seconds per pass, in order."""

    rows: list[tuple[str, float]] = field(default_factory=list)

    def before(self, index: int, text: str, module: ir.Module) -> None:
        """Do nothing."""

    def after(self, index: int, text: str, module: ir.Module, seconds: float) -> None:
        """Note the time."""
        self.rows.append((text, seconds))

    def table(self) -> str:
        """Return one line per pass, then the total."""
        total = sum(seconds for _, seconds in self.rows)
        lines = [f"{seconds * 1e3:9.2f} ms  {text}" for text, seconds in self.rows]
        return "\n".join([*lines, f"{total * 1e3:9.2f} ms  total"])
