"""A Llama that generates: its network with a key-value cache, as two exported entries.

``prefill`` takes tokens i64 ``[s]``, ``decode`` one token i64 ``[1]``; both take the positions of
all tokens so far, i64 ``[n]``, 0 to n - 1, of which the new tokens are the last, so that
s <= n <= context, and give the logits f32 ``[1, vocabulary]`` of the token that comes next.  How
many positions there are says where in the caches the new keys and values go, and how much of them
is read: sizes are known before a call begins, so nothing is waited for.

Caches are ``[context, key-value heads, head]``, so what is filled lies at their beginning.  Query
heads that share a key-value head are rows of one product: no head is copied.

Names of the weights are those of ``LlamaForCausalLM`` of ``transformers``, whose network this is
(RMSNorm, rotary embedding, grouped queries, SwiGLU), so a model of that class can be loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    import torch

MINUS_INFINITY = float("-inf")
LEAST_CONTEXT = 3  # a prompt is of two tokens or more, and its length varies


@dataclass(frozen=True)
class Shape:
    """A Llama: sizes as ``transformers`` calls them, and how many tokens its caches hold."""

    hidden_size: int = 1024
    num_hidden_layers: int = 16
    num_attention_heads: int = 16
    num_key_value_heads: int = 4
    intermediate_size: int = 2816
    vocab_size: int = 32000
    context: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0

    def __post_init__(self) -> None:
        """Refuse sizes below the least, and heads that do not divide."""
        for field in fields(self):
            least = LEAST_CONTEXT if field.name == "context" else 1
            if field.type == "int" and getattr(self, field.name) < least:
                raise UserError(
                    f"a size is {least} or more, and not {getattr(self, field.name)}",
                    where=field.name,
                )
        if self.hidden_size % (2 * self.num_attention_heads):
            raise UserError(
                f"{self.hidden_size} is no multiple of twice {self.num_attention_heads} heads"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise UserError(
                f"{self.num_attention_heads} heads cannot share {self.num_key_value_heads} evenly"
            )

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.hidden_size // self.num_attention_heads


def build(shape: Shape) -> torch.nn.Module:
    """Return the network with random weights and empty caches."""
    from torch import nn

    class Llama(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model, self.lm_head = _body(shape), _linear(shape.hidden_size, shape.vocab_size)

        def forward(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.lm_head(self.model(tokens, positions))
            return logits

    return Llama().eval()


def _body(shape: Shape) -> torch.nn.Module:
    """Return all but the output head."""
    import torch
    from torch import nn

    class Body(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
            self.layers = nn.ModuleList(_layer(shape) for _ in range(shape.num_hidden_layers))
            self.norm = _norm(shape)
            steps = torch.arange(0, shape.head, 2).float() / shape.head
            self.register_buffer("frequencies", shape.rope_theta**-steps, persistent=False)

        def forward(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
            s, n = tokens.shape[0], positions.shape[0]
            own = positions[n - s :]
            angles = own.float()[:, None] * self.frequencies
            angles = torch.cat((angles, angles), -1)[:, None]
            mask = None
            if s != 1:
                mask = torch.where(positions[None] <= own[:, None], 0.0, MINUS_INFINITY)
            x = self.embed_tokens(tokens)
            for layer in self.layers:
                x = layer(x, (angles.cos(), angles.sin()), mask, n)
            last: torch.Tensor = self.norm(x[-1:])
            return last

    return Body()


def _layer(shape: Shape) -> torch.nn.Module:
    """Return a layer."""
    from torch import nn

    class Layer(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.self_attn, self.mlp = _attention(shape), _mlp(shape)
            self.input_layernorm, self.post_attention_layernorm = _norm(shape), _norm(shape)

        def forward(self, x: torch.Tensor, turns: Any, mask: Any, n: int) -> torch.Tensor:
            x = x + self.self_attn(self.input_layernorm(x), turns, mask, n)
            return x + self.mlp(self.post_attention_layernorm(x))

    return Layer()


def _attention(shape: Shape) -> torch.nn.Module:
    """Return the attention of a layer, with its caches."""
    import torch
    from torch import nn

    class Attention(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            width, shared = shape.hidden_size, shape.num_key_value_heads * shape.head
            self.q_proj, self.o_proj = _linear(width, width), _linear(width, width)
            self.k_proj, self.v_proj = _linear(width, shared), _linear(width, shared)
            empty = torch.zeros(shape.context, shape.num_key_value_heads, shape.head)
            self.register_buffer("keys", empty, persistent=False)
            self.register_buffer("values", empty.clone(), persistent=False)

        def forward(self, x: torch.Tensor, turns: Any, mask: Any, n: int) -> torch.Tensor:
            s, kv, head = x.shape[0], shape.num_key_value_heads, shape.head
            heads = shape.num_attention_heads
            q = _rotated(self.q_proj(x).view(s, heads, head), *turns)
            self.keys[n - s : n] = _rotated(self.k_proj(x).view(s, kv, head), *turns)
            self.values[n - s : n] = self.v_proj(x).view(s, kv, head)
            keys, values = self.keys[:n].permute(1, 2, 0), self.values[:n].transpose(0, 1)
            rows = q.view(s, kv, heads // kv, head).permute(1, 2, 0, 3).reshape(kv, -1, head)
            scores = torch.bmm(rows, keys) * head**-0.5
            if mask is not None:
                scores = (scores.view(kv, heads // kv, s, n) + mask).view(kv, -1, n)
            mixed = torch.bmm(torch.softmax(scores, -1), values)
            ordered = mixed.view(kv, heads // kv, s, head).permute(2, 0, 1, 3)
            out: torch.Tensor = self.o_proj(ordered.reshape(s, shape.hidden_size))
            return out

    return Attention()


def _mlp(shape: Shape) -> torch.nn.Module:
    """Return the gated feed-forward network of a layer."""
    from torch import nn

    class Mlp(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            width, inner = shape.hidden_size, shape.intermediate_size
            self.gate_proj, self.up_proj = _linear(width, inner), _linear(width, inner)
            self.down_proj = _linear(inner, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gate = nn.functional.silu(self.gate_proj(x))
            out: torch.Tensor = self.down_proj(gate * self.up_proj(x))
            return out

    return Mlp()


def _norm(shape: Shape) -> torch.nn.Module:
    """Return an RMSNorm."""
    import torch
    from torch import nn

    class Norm(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(shape.hidden_size))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mean = x.pow(2).mean(-1, keepdim=True)
            return self.weight * (x * torch.rsqrt(mean + shape.rms_norm_eps))

    return Norm()


def _linear(inputs: int, outputs: int) -> torch.nn.Module:
    from torch import nn

    return nn.Linear(inputs, outputs, bias=False)


def _rotated(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Return heads ``[s, heads, head]`` turned by angles ``[s, 1, head]``."""
    import torch

    low, high = x.chunk(2, -1)
    return x * cosines + torch.cat((-high, low), -1) * sines


def export(model: torch.nn.Module, shape: Shape) -> dict[str, Any]:
    """Return the ``ExportedProgram`` of each entry by its name: prefill, decode.

    Caches of `model` are emptied: what a text left in them would be a part of the program.
    """
    import torch

    for name, buffer in model.named_buffers():
        if name.endswith((".keys", ".values")):
            buffer.zero_()
    n = torch.export.Dim("n", min=1, max=shape.context)
    s = torch.export.Dim("s", min=2, max=shape.context)
    token, tokens, positions = (
        torch.zeros(1, dtype=torch.int64),
        torch.zeros(min(3, shape.context - 1), dtype=torch.int64),
        torch.arange(min(5, shape.context)),
    )
    with torch.no_grad():
        return {
            "prefill": torch.export.export(
                model, (tokens, positions), dynamic_shapes=({0: s}, {0: n}), strict=False
            ),
            "decode": torch.export.export(
                model, (token, positions), dynamic_shapes=({}, {0: n}), strict=False
            ),
        }
