"""Checkpoints with layers as large as real ones, for tests of memory and of interruption. Their tokenizer is missing."""

from pathlib import Path

import safetensors.torch
import torch

import tiny


def make(folder: Path, layers: int, H: int = 1024, F: int = 4096) -> int:
    """Writes a dense bf16 Llama of `layers` layers, a shard each; returns the bytes of one layer."""
    V = 320
    changes = {"hidden_size": H, "intermediate_size": F, "num_hidden_layers": layers, "num_attention_heads": H // 64,
               "num_key_value_heads": H // 256, "head_dim": 64, "tie_word_embeddings": True}
    folder.mkdir()
    tiny.write_config(folder, tiny.LLAMA | changes, torch.bfloat16)
    shapes = {"self_attn.q_proj": (H, H), "self_attn.k_proj": (H // 4, H), "self_attn.v_proj": (H // 4, H),
              "self_attn.o_proj": (H, H), "mlp.gate_proj": (F, H), "mlp.up_proj": (F, H), "mlp.down_proj": (H, F),
              "input_layernorm": (H,), "post_attention_layernorm": (H,)}
    weight_map, layer_bytes = {}, 0
    for layer in range(layers + 1):
        file = f"model-{layer + 1:05d}-of-{layers + 1:05d}.safetensors"
        names = {f"model.layers.{layer}.{name}.weight": shape for name, shape in shapes.items()}
        if layer == layers:
            names = {"model.embed_tokens.weight": (V, H), "model.norm.weight": (H,)}
        weights = {name: torch.full(shape, 0.01, dtype=torch.bfloat16) for name, shape in names.items()}
        for weight in weights.values():
            weight.view(-1)[::2] *= -3  # a deviation, without the time of real random numbers
        if layer < layers:
            layer_bytes = sum(weight.nbytes for weight in weights.values())
        safetensors.torch.save_file(weights, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    tiny.write_index(folder, weight_map)
    return layer_bytes
