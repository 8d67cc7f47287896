"""How PyTorch's operators are taken apart before torch-mlir sees them.

torch-mlir's own table, with one entry changed.  Runs only in the importer's process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import compute_elementwise_output_logical_to_physical_perm
from torch_mlir.extras.fx_decomp_util import get_decomposition_table


def decomposition_table() -> dict[Any, Callable[..., Any]]:
    """Return operator → function that calculates it from simpler ones."""
    table = dict(get_decomposition_table())
    table[torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default] = attention
    return table


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention ``[B, H, L, E]`` with its result laid out in memory like `query`.

    That is the layout which the operator itself has in an exported graph, so that a ``view`` of
    the result which was possible there is possible here.  PyTorch's own decomposition always
    gives ``[L, B, H, E]``: views of it then fail, or turn the next linear layer into a batched
    product with as many copies of the weight.
    """
    result, weights = torch.ops.aten._scaled_dot_product_attention_math.default(
        query, key, value, attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal,
        dropout_mask=None, scale=scale, enable_gqa=query.size(1) != key.size(1),
    )  # fmt: skip
    order, _ = compute_elementwise_output_logical_to_physical_perm(query)
    back = [order.index(axis) for axis in range(len(order))]
    return result.permute(order).contiguous().permute(back), weights
