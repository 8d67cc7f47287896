"""A module with several entries: models that share their weights and their state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..errors import UserError, nearest
from .buffers import DeviceArray
from .devices import Device
from .manifest import Leaf, Manifest
from .module import Module


class Program(Module):
    """What :func:`lowc.load` gives for a module that was compiled from a mapping.

    Each entry is a :class:`Module`: ``program.prefill(tokens)`` or ``program["prefill"](tokens)``.
    Where there is one alone, calling the program calls it.
    Calls run one after another, whichever entry they are of, and read and write one state, which
    :meth:`reset` puts back.  ``in``, ``iter`` and ``len`` are of the names.

    Attributes
    ----------
    entries : dict of str to Module
        The entries by name.
    """

    def __init__(
        self,
        path: Path,
        manifests: Sequence[Manifest],
        device: Device,
        context: Any,
        vm_module: Any,
    ) -> None:
        super().__init__(path, manifests[0], device, context, vm_module)
        self.entries = {
            manifest.entry_point: Module(path, manifest, device, context, vm_module, self.shared)
            for manifest in manifests
        }

    def __repr__(self) -> str:
        return f"<lowc program {self.path}: {', '.join(self.entries)}, on {self.device.name}>"

    def __getitem__(self, name: str) -> Module:
        """Return an entry.

        Raises
        ------
        UserError
            When there is none of that name.
        """
        if not isinstance(name, str):
            raise UserError(
                f"an entry is named by a text, not by {type(name).__name__}",
                where=str(self.path), hint=nearest("", self.entries),
            )  # fmt: skip
        if name not in self.entries:
            raise UserError(
                f"the module has no entry '{name}'", where=str(self.path),
                hint=nearest(name, self.entries),
            )  # fmt: skip
        return self.entries[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.entries})

    def __getattr__(self, name: str) -> Module:
        """Return an entry, as an attribute."""
        entries = self.__dict__.get("entries", {})
        if name not in entries:
            raise AttributeError(
                f"the module {self.__dict__.get('path', '')} has no entry or attribute '{name}'; "
                f"its entries are {', '.join(entries)}"
            )
        found: Module = entries[name]
        return found

    def bound_to_zeros(self) -> Callable[[], list[DeviceArray]]:
        """Do what the only entry does; of several, one is to be named."""
        if len(self) > 1:
            self.refuse()
        return super().bound_to_zeros()

    def _checked(self, args: Any, kwargs: Any) -> list[tuple[Leaf, Any]]:
        if len(self) > 1:
            self.refuse()
        return super()._checked(args, kwargs)

    def refuse(self) -> NoReturn:
        """Raise the UserError that an entry has to be named."""
        names = ", ".join(self.entries)
        raise UserError(
            f"the module has several entries: {names}",
            where=str(self.path),
            hint=f"name one: module.{next(iter(self.entries))}(…), or lowc run --entry NAME",
        )


# What an entry cannot be called, since it would hide something of a module.
RESERVED = frozenset(dir(Program)) | {
    "device", "entries", "manifest", "path", "shared", "signature",
}  # fmt: skip
