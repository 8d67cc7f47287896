"""Targets: what code is generated for, as data (``targets.toml``)."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Self

from ..errors import UserError, nearest
from ..passes import gpus
from ..passes.gpus import Gpu


@dataclass(frozen=True)
class Target:
    """Where a module will run: its name, IREE's flags, and the runtime's device.

    ``float64_flags`` are added for a model with float64 tensors, ``any_order_flags`` where sums may
    be in any order; ``fallbacks`` are flags to replace others with when ``iree-compile`` fails, in
    order.  ``gpu`` is what a GPU has, ``notes`` what the user should know of the choice.
    """

    name: str
    backend: str
    device: str
    flags: tuple[str, ...]
    float64_flags: tuple[str, ...] = ()
    any_order_flags: tuple[str, ...] = ()
    fallbacks: tuple[tuple[str, ...], ...] = ()
    gpu: Gpu | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name

    def with_float64(self) -> Self:
        """Return the target for a model with float64 tensors."""
        return dataclasses.replace(self, flags=self.flags + self.float64_flags)

    def with_sums_in_any_order(self) -> Self:
        """Return the target for a model whose sums, outside kernels, define no order."""
        return dataclasses.replace(self, flags=self.flags + self.any_order_flags)

    def with_sums_in_order(self) -> Self:
        """Return the target for a model in which sums outside kernels have an order.

        Threads of a subgroup each add a part of a sum, in an order that no form defines; and IREE
        3.13 gives them wrong loop numbers where a body asks for them, as bodies that take words
        apart do (8-bit activations with 4-bit weights, llvmpipe).
        """
        if self.gpu is None or self.backend != "vulkan" or not self.gpu.operations:
            return self
        alone = dataclasses.replace(self.gpu, operations=())
        device = f"--iree-hal-target-device={alone.spirv_target}"
        kept = tuple(f for f in self.flags if not f.startswith("--iree-hal-target-device="))
        return dataclasses.replace(self, flags=(device, *kept))

    def with_flags(self, replacing: tuple[str, ...]) -> Self:
        """Return the target with the flags of the same names replaced."""
        names = {flag.partition("=")[0] for flag in replacing}
        kept = tuple(flag for flag in self.flags if flag.partition("=")[0] not in names)
        return dataclasses.replace(self, flags=kept + replacing, any_order_flags=(), fallbacks=())


@cache
def _table() -> dict[str, dict[str, Any]]:
    text = (resources.files(__package__) / "targets.toml").read_text()
    return tomllib.loads(text)


def target_names() -> dict[str, str]:
    """Return the known targets with their descriptions."""
    return {name: entry["description"] for name, entry in _table().items()}


def load_target(target: str | Target) -> Target:
    """Return the target called ``cpu``, ``vulkan``, ``cuda``, or one of them with ``:chip``.

    Raises
    ------
    UserError
        For a target that is not known, or a chip that is not (of CPUs LLVM knows the names, here it
        must only look like one).
    """
    if isinstance(target, Target):
        return target
    if not isinstance(target, str):
        raise UserError(f"a {type(target).__name__} is no target", hint="a name or a Target")
    backend, colon, chip = target.partition(":")
    table = _table()
    if backend not in table:
        raise UserError(f"there is no target '{target}'", hint=nearest(backend, table))
    if colon and not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", chip):
        raise UserError(f"'{chip}' is no chip name", where=f"target '{target}'")
    entry = table[backend]
    chip = chip or entry["default"]
    gpu, note = gpus.find(backend, chip) if gpus.families(backend) else (None, "")
    words = {"chip": gpu.chip if gpu else chip, "spirv": gpu.spirv_target if gpu else ""}
    return Target(
        name=target,
        backend=backend,
        device=entry["device"],
        flags=tuple(flag.format(**words) for flag in entry["flags"]),
        float64_flags=tuple(entry["float64"]),
        any_order_flags=tuple(entry.get("any_order", ())),
        fallbacks=tuple(tuple(flags) for flags in entry.get("fallbacks", ())),
        gpu=gpu,
        notes=(note,) if note else (),
    )
