"""What a compilation leaves: ``model.vmfb``, and ``model.irpa`` beside it if it has parameters."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iree.compiler import ir

from ..errors import UserError
from ..runtime.manifest import REFLECTION_KEY, Manifest


@dataclass
class Artifact:
    """A compiled model on disk.

    Attributes
    ----------
    path : Path
        The ``.vmfb``.
    manifest : Manifest
        What the module says about itself.
    report : dict
        Per matmul its name, shape, form, lowering with its reason, bits per weight; then sizes in
        bytes, seconds per stage, and notes.  Of a mapping of models, ``energy`` is by entry.
    """

    path: Path
    manifest: Manifest
    report: dict[str, Any]
    _folder: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)

    @property
    def parameters_path(self) -> Path | None:
        """The ``.irpa`` beside the module, or None."""
        if self.manifest.parameters is None:
            return None
        return self.path.with_name(self.manifest.parameters.file)

    @property
    def files(self) -> list[Path]:
        """All files that belong to the artifact; keep them together, under these names."""
        return [path for path in (self.path, self.parameters_path) if path is not None]

    def save(self, folder: str | os.PathLike[str]) -> Artifact:
        """Copy the files into `folder` under their names; return the artifact there."""
        target = Path(folder)
        try:
            target.mkdir(parents=True, exist_ok=True)
            if target.samefile(self.path.parent):
                return self
            for path in reversed(self.files):  # the module last: it names the archive
                part = target / f".{path.name}.part"
                try:
                    shutil.copyfile(path, part)
                    os.replace(part, target / path.name)
                finally:
                    part.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot write here ({error.strerror})", where=str(target)) from error
        return Artifact(target / self.path.name, self.manifest, self.report)


def embed_manifest(module: ir.Module, function: Any, manifest: Manifest) -> None:
    """Put the manifest into the reflection of an entry function."""
    with module.context:
        text = ir.StringAttr.get(manifest.to_json())
        function.attributes["iree.reflection"] = ir.DictAttr.get({REFLECTION_KEY: text})


class Staging:
    """A folder beside the output in which files grow until all are whole.

    The files get their final names together at :meth:`publish`; before that, or when anything
    fails, nothing of them can be seen at the output's place.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = Path(tempfile.mkdtemp(prefix=".lowc-", dir=output.parent))
        self.module = self.folder / output.name
        self.parameters = self.folder / output.with_suffix(".irpa").name

    def publish(self) -> None:
        """Rename the finished files to their places, the module last: it names the archive."""
        stale = self.output.with_suffix(".irpa")
        if self.parameters.exists():
            os.replace(self.parameters, stale)
        os.replace(self.module, self.output)


@contextlib.contextmanager
def staging(output: Path) -> Iterator[Staging]:
    """Give a :class:`Staging` for `output`, and remove it whatever happens.

    Raises
    ------
    UserError
        When the output's folder cannot be written to.
    """
    if output.suffix != ".vmfb":
        raise UserError(
            "the output must be called something.vmfb", where=str(output),
            hint=f"write to {output.with_suffix('.vmfb')}",
        )  # fmt: skip
    if output.is_dir():
        raise UserError("the output is a folder", where=str(output))
    try:
        stage = Staging(output)
    except OSError as error:
        raise UserError(
            f"cannot write here ({error.strerror})", where=str(output.parent)
        ) from error
    try:
        yield stage
    finally:
        shutil.rmtree(stage.folder, ignore_errors=True)
