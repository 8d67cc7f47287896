"""Small models with the shapes of real architectures: random weights, fixed seed, no downloads.

Every entry of :data:`ARCHITECTURES` makes a :class:`Sample`.  Widths are no multiples of 32 where
the architecture allows it, so that the last group of a quantised row is a short one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn
from torch.export import Dim

Inputs = dict[str, torch.Tensor]


@dataclass
class Sample:
    """A model and how it is called: `inputs` by keyword; the first is exported with, all are run."""

    model: nn.Module
    inputs: list[Inputs]
    dynamic_shapes: dict[str, Any] | None = None


def _floats(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def _tokens(batch: int, length: int) -> Inputs:
    """Ids below 99, and a mask whose last row is shorter than the others."""
    generator = torch.Generator().manual_seed(batch * 1000 + length)
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[-1, length - length // 3 :] = 0
    ids = torch.randint(3, 99, (batch, length), generator=generator)
    return {"input_ids": ids, "attention_mask": mask}


def _text(model: nn.Module, longest: int = 32) -> Sample:
    """A model over tokens, with batch and sequence dynamic."""
    sizes = {0: Dim("batch", max=64), 1: Dim("sequence", max=longest)}
    return Sample(
        model,
        [_tokens(2, 7), _tokens(1, 1), _tokens(3, 16)],
        {"input_ids": sizes, "attention_mask": sizes},
    )


class Mlp(nn.Module):
    """Three linear layers of awkward widths, two activations."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(70, 48), nn.GELU(), nn.Linear(48, 33, bias=False), nn.Tanh(), nn.Linear(33, 5)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``[batch, 5]`` for ``[batch, 70]``."""
        return self.layers(x)


class Cnn(nn.Module):
    """Convolutions (strided, grouped), batch normalisation, pooling, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3, stride=2, groups=4), nn.BatchNorm2d(12), nn.Hardswish(),
            nn.AdaptiveAvgPool2d(1),
        )  # fmt: skip
        self.head = nn.Linear(12, 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return ``[batch, 10]`` for ``[batch, 3, 20, 20]``."""
        return self.head(self.features(pixels).flatten(1))


def _mlp() -> Sample:
    return Sample(
        Mlp(),
        [{"x": _floats(rows, 70)} for rows in (3, 1, 9)],
        {"x": {0: Dim("batch", max=64)}},
    )


def _cnn() -> Sample:
    model = Cnn()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after training
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return Sample(model, [{"pixels": _floats(2, 3, 20, 20)}])


def _bert() -> Sample:
    config = transformers.BertConfig(
        vocab_size=99, hidden_size=56, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=100, max_position_embeddings=32,
    )  # fmt: skip
    return _text(transformers.BertModel(config))


def _gpt2() -> Sample:
    config = transformers.GPT2Config(
        vocab_size=99, n_embd=56, n_layer=2, n_head=4, n_positions=32, use_cache=False,
    )  # fmt: skip
    return _text(transformers.GPT2LMHeadModel(config))


def _llama() -> Sample:
    config = transformers.LlamaConfig(
        vocab_size=99, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=88, max_position_embeddings=32,
        tie_word_embeddings=True, use_cache=False,
    )  # fmt: skip
    return _text(transformers.LlamaForCausalLM(config))


def _vit() -> Sample:
    config = transformers.ViTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=72,
        image_size=24, patch_size=8, num_labels=7,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config)
    return Sample(model, [{"pixel_values": _floats(2, 3, 24, 24)}])


def _t5_encoder() -> Sample:
    config = transformers.T5Config(
        vocab_size=99, d_model=48, d_kv=12, d_ff=80, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return _text(transformers.T5EncoderModel(config))


def _whisper_encoder() -> Sample:
    config = transformers.WhisperConfig(
        vocab_size=99, d_model=48, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=72,
        decoder_layers=1, decoder_attention_heads=4, num_mel_bins=16, max_source_positions=20,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    model = transformers.WhisperModel(config).get_encoder()
    return Sample(model, [{"input_features": _floats(2, 16, 40)}])


ARCHITECTURES: dict[str, Callable[[], Sample]] = {
    "mlp": _mlp,
    "cnn": _cnn,
    "bert": _bert,
    "gpt2": _gpt2,
    "llama": _llama,
    "vit": _vit,
    "t5-encoder": _t5_encoder,
    "whisper-encoder": _whisper_encoder,
}


def build(name: str) -> Sample:
    """Return the sample `name`, the same one each time, ready for inference."""
    torch.manual_seed(0)
    sample = ARCHITECTURES[name]()
    sample.model.eval().requires_grad_(False)
    return sample
