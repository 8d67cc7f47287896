"""What a module takes and gives, for people to read and programs to walk over."""

from __future__ import annotations

from dataclasses import dataclass

from .manifest import Leaf, Manifest


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs, flat and in order; each has ``name``, ``shape`` and ``dtype``.

    A string in a shape is the symbol of a dynamic size; ``ranges`` gives its ``(low, high)``.
    """

    inputs: tuple[Leaf, ...]
    outputs: tuple[Leaf, ...]
    ranges: dict[str, tuple[int | None, int | None]]

    @classmethod
    def of(cls, manifest: Manifest) -> Signature:
        """Return the signature that `manifest` records."""
        return cls(manifest.inputs, manifest.outputs, manifest.ranges)

    def __str__(self) -> str:
        lines = [
            f"{title}\n{''.join(f'  {leaf}{chr(10)}' for leaf in leaves) or '  none' + chr(10)}"
            for title, leaves in (("inputs", self.inputs), ("outputs", self.outputs))
        ]
        if self.ranges:
            lines.append("sizes\n")
            for name, (low, high) in sorted(self.ranges.items()):
                lines.append(f"  {name}: {'?' if low is None else low}")
                lines.append(f" to {'any' if high is None else high}\n")
        return "".join(lines).rstrip("\n")
