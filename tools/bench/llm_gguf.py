"""Write a Llama as a GGUF: ``llm_gguf.py FOLDER KIND FILE``, by the package ``gguf``.

FOLDER has ``shape.json``, sizes as ``lowc.tools.llama_model.Shape`` has them, and the weights in
f32, ``NAME.npy`` by their names in ``transformers``.  Every matrix is rounded to KIND, ``q4_0`` or
``q8_0``, embeddings and output head too.  It stands alone: the package may be in another Python.

llama.cpp turns neighbouring pairs of a head's numbers where ``transformers`` turns halves, so rows
of queries and keys change places, as ``convert_hf_to_gguf.py`` of llama.cpp moves them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "model.embed_tokens": "token_embd",
    "model.norm": "output_norm", "lm_head": "output",
}  # fmt: skip


def gguf_name(name: str) -> str:
    """Return what GGUF calls the weight `name`: ``model.layers.0.mlp.up_proj.weight``."""
    parts = name.split(".")
    if name.startswith("model.layers."):
        return f"blk.{parts[2]}.{NAMES['.'.join(parts[3:-1])]}.weight"
    return f"{NAMES['.'.join(parts[:-1])]}.weight"


def in_pairs(weight: Any, heads: int) -> Any:
    """Return rows ``[heads x head, …]`` so that the halves of each head take turns."""
    rows = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return rows.swapaxes(1, 2).reshape(weight.shape)


def write(folder: Path, kind: str, file: Path) -> None:
    """Write the file."""
    import gguf
    import numpy as np

    shape = json.loads((folder / "shape.json").read_text())
    heads, shared = shape["num_attention_heads"], shape["num_key_value_heads"]
    number = gguf.GGMLQuantizationType[kind.upper()]
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(shape["context"])
    writer.add_embedding_length(shape["hidden_size"])
    writer.add_block_count(shape["num_hidden_layers"])
    writer.add_feed_forward_length(shape["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(shared)
    writer.add_layer_norm_rms_eps(shape["rms_norm_eps"])
    writer.add_rope_freq_base(shape["rope_theta"])
    writer.add_rope_dimension_count(shape["hidden_size"] // heads)
    writer.add_vocab_size(shape["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind.upper()}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for path in sorted(folder.glob("*.npy")):
        weight = np.load(path, allow_pickle=False)
        for part, count in (("q_proj", heads), ("k_proj", shared)):
            if f".{part}." in path.name:
                weight = in_pairs(weight, count)
        name = gguf_name(path.stem)
        if weight.ndim == 1:
            writer.add_tensor(name, weight)
            continue
        writer.add_tensor(name, gguf.quants.quantize(weight, number), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    del sys.path[0]  # this folder
    write(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
