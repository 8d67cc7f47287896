"""What ``lowc bench llm`` measures, made the same way each time: one network, in several files.

The weights are random and the same for all; a seed makes them.  lowc compiles them under a recipe,
and ``gguf`` rounds them for llama.cpp (``llm_gguf.py``).
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import UserError
from .. import llama_model, output
from ..llama_model import Shape

if TYPE_CHECKING:
    import torch

SEED = 0
PROMPT = 128  # tokens, that logits are compared after
KINDS = ("q4_0", "q8_0")
INSTALL = "pip install llama-cpp-python gguf; --llama-python names an environment of its own"
_HAS = "import importlib.metadata as m, llama_cpp, gguf; print(m.version('llama-cpp-python'))"
_GGUF, _SHAPE, _LOGITS = Path(__file__).with_name("llm_gguf.py"), "shape.json", "logits.npy"


@dataclass(frozen=True)
class Files:
    """The files of one network in a folder; what is there already is taken as it is."""

    folder: Path
    shape: Shape

    def prepare(self) -> None:
        """Make the folder, or see that it is of this network.

        Raises
        ------
        UserError
            It has another network.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        kept, sizes = self.folder / _SHAPE, dataclasses.asdict(self.shape)
        if not kept.exists():
            kept.write_text(json.dumps(sizes))
        if json.loads(kept.read_text()) != sizes:
            raise UserError(
                "the folder has files of another network", where=str(self.folder),
                hint="another --folder, or the sizes and contexts that it was made with",
            )  # fmt: skip

    def tokens(self, count: int) -> list[int]:
        """Return the first `count` tokens of the one text."""
        drawn = np.random.default_rng(SEED).integers(0, self.shape.vocab_size, self.shape.context)
        return [int(token) for token in drawn[:count]]

    def module(self, recipe: str, cache: str | None = None) -> Path:
        """Return the ``.vmfb`` of a recipe, with formats of caches in the place of its own."""
        from ...compiler.api import compile as compile_model

        stem = Path(recipe).stem
        path = self.folder / f"{stem if cache is None else f'{stem}-{cache}'}.vmfb"
        if not path.exists():
            output.remark(f"compiling with recipe {recipe}" + (f", caches {cache}" * bool(cache)))
            programs = llama_model.export(self._network, self.shape)
            compile_model(programs, recipe, output=path, cache=cache)
        return path

    def gguf(self, kind: str, python: str) -> Path:
        """Return the GGUF of a kind of blocks."""
        path = self.folder / f"{kind}.gguf"
        if path.exists():
            return path
        output.remark(f"writing {path.name}")
        with tempfile.TemporaryDirectory(prefix="lowc-bench-") as given:
            Path(given, _SHAPE).write_text(json.dumps(dataclasses.asdict(self.shape)))
            for name, weight in self._network.state_dict().items():
                np.save(Path(given, f"{name}.npy"), weight.numpy())
            partial = path.with_suffix(".part")
            done = _run([python, str(_GGUF), given, kind, str(partial)])
        if done.returncode:
            raise UserError(f"gguf could not write the model: {_last(done.stderr)}", where=python)
        partial.replace(path)
        return path

    def logits(self) -> Any:
        """Return what PyTorch says in f32 after :data:`PROMPT` tokens: f32 ``[vocabulary]``."""
        import torch

        path, count = self.folder / _LOGITS, self.prompt
        if not path.exists():
            with torch.no_grad():
                found = self._network(torch.tensor(self.tokens(count)), torch.arange(count))
            np.save(path, found[0].numpy())
        return np.load(path, allow_pickle=False)

    @property
    def prompt(self) -> int:
        """Tokens of the prompt that logits are compared after."""
        return min(PROMPT, self.shape.context // 2)

    @cached_property
    def _network(self) -> torch.nn.Module:
        import torch

        torch.manual_seed(SEED)
        return llama_model.build(self.shape)

    def forget(self) -> None:
        """Let go of the network, which takes four bytes for each weight."""
        self.__dict__.pop("_network", None)


def kind_of(recipes: Sequence[str]) -> str:
    """Return the blocks with as many bits as the weights of the first recipe, or nearly so."""
    from ...compiler.recipe import load_recipe

    rules = load_recipe(recipes[0]).rules
    return "q8_0" if rules and rules[-1].form.weights == "i8" else "q4_0"


def llama_version(python: str) -> str:
    """Return the version of llama-cpp-python that `python` has.

    Raises
    ------
    UserError
        There is no such Python, or it lacks a package; the message says how to get it.
    """
    try:
        done = _run([python, "-c", _HAS])
    except OSError as error:
        raise UserError(
            f"there is no Python ({error.strerror})", where=f"--llama-python {python}"
        ) from error
    if done.returncode:
        raise UserError(
            f"this Python has no llama.cpp: {_last(done.stderr)}", where=python, hint=INSTALL
        )
    return done.stdout.strip()


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[-1][:300]


def this_python() -> str:
    """Return the Python that runs here."""
    return sys.executable
