"""The engine's memory does not follow from what a small file says, and files that change under it are told."""

import json
import os
import struct
import subprocess

import numpy as np
import pytest
import safetensors.torch
import torch

import conftest
import tiny

MOST = 1_800_000_000  # resident; torch itself takes 0.3 GB, and a batch of activations may take some 1 GB


def peak(*arguments) -> tuple[int, str, int]:
    """Exit code, what was said, and the memory at the peak."""
    command = [str(conftest.PROGRAM), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, said, usage.ru_maxrss * 1024


def write_tokens(path, count: int):
    np.asarray([3 + n % 50 for n in range(count)], dtype=np.uint16).tofile(path)
    return path


@pytest.mark.parametrize("changes", [{"num_local_experts": 100_000}, {"num_hidden_layers": 10_000}], ids=str)
def test_a_config_that_promises_too_much_is_refused_before_room_is_made(changes, tiny_folder, convert, tmp_path):
    folder = convert(tiny_folder(tiny.VARIANTS[0]), "--experts", 4)
    tiny.change_config(folder, **changes)
    text = write_tokens(tmp_path / "text.bin", 100)
    for arguments in (("eval", folder, "--data", text), ("generate", folder, "--tokens", "1 2"),
                      ("calibrate", folder, "--data", text, "-o", tmp_path / "out.safetensors")):
        code, said, memory = peak(*arguments)
        assert code == 1 and "experts" in said and said.count("\n") == 1, said
        assert memory < 700_000_000, (arguments[0], memory)


def test_a_window_over_a_long_text_needs_no_table_of_all_pairs(tmp_path):
    variant = tiny.Variant("long", {"sliding_window": 8, "max_position_embeddings": 40_000}, family=tiny.MISTRAL)
    folder = tiny.make(tmp_path / "model", variant)
    text = write_tokens(tmp_path / "text.bin", 32_000)
    code, said, memory = peak("eval", folder, "--data", text, "--context", 32_000, "--compute", "fp32")
    assert code == 0, said
    assert memory < MOST, memory


def checkpoint(folder, config: dict, shapes: dict) -> None:
    """Small random weights in bfloat16."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    weights = {name: (torch.randn(shape, generator=generator) / 8).bfloat16() for name, shape in shapes.items()}
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("kv_heads", [1, 1000])
def test_many_heads_are_computed_some_at_a_time(kv_heads, tmp_path):
    Q, G, D, H, F, V = 100_000, kv_heads, 2, 4, 8, 64
    config = {**tiny.LLAMA, "hidden_size": H, "intermediate_size": F, "num_hidden_layers": 1, "num_attention_heads": Q, "max_position_embeddings": 400,
              "num_key_value_heads": G, "head_dim": D, "vocab_size": V, "tie_word_embeddings": True}
    layer = "model.layers.0."
    checkpoint(tmp_path / "model", config, {
        "model.embed_tokens.weight": (V, H), "model.norm.weight": (H,),
        layer + "input_layernorm.weight": (H,), layer + "post_attention_layernorm.weight": (H,),
        layer + "self_attn.q_proj.weight": (Q * D, H), layer + "self_attn.k_proj.weight": (G * D, H),
        layer + "self_attn.v_proj.weight": (G * D, H), layer + "self_attn.o_proj.weight": (H, Q * D),
        layer + "mlp.gate_proj.weight": (F, H), layer + "mlp.up_proj.weight": (F, H), layer + "mlp.down_proj.weight": (H, F),
    })  # fmt: skip
    text = write_tokens(tmp_path / "text.bin", 400)
    code, said, memory = peak("eval", tmp_path / "model", "--data", text, "--context", 400, "--compute", "fp32")
    assert code == 0, said
    assert memory < MOST, memory


@pytest.mark.parametrize("experts", [0, 2])
def test_wide_ffns_are_computed_some_tokens_at_a_time(experts, tmp_path):
    H, F, V = 4, 500_000, 64
    config = {**tiny.LLAMA, "hidden_size": H, "intermediate_size": F, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 1000,
              "num_key_value_heads": 2, "head_dim": 2, "vocab_size": V, "tie_word_embeddings": True}
    layer = "model.layers.0."
    shapes = {"model.embed_tokens.weight": (V, H), "model.norm.weight": (H,),
              layer + "input_layernorm.weight": (H,), layer + "post_attention_layernorm.weight": (H,)}
    shapes |= {f"{layer}self_attn.{one}_proj.weight": (H, H) for one in "qkvo"}
    if experts:
        config = {**tiny.MISTRAL, **{k: v for k, v in config.items() if k in tiny.MISTRAL}, "architectures": ["MixtralForCausalLM"],
                  "model_type": "mixtral", "num_local_experts": experts, "num_experts_per_tok": 1, "sliding_window": None}
        shapes[layer + "block_sparse_moe.gate.weight"] = (experts, H)
        for e in range(experts):
            expert = f"{layer}block_sparse_moe.experts.{e}."
            shapes |= {expert + "w1.weight": (F, H), expert + "w2.weight": (H, F), expert + "w3.weight": (F, H)}
    else:
        shapes |= {layer + "mlp.gate_proj.weight": (F, H), layer + "mlp.up_proj.weight": (F, H), layer + "mlp.down_proj.weight": (H, F)}
    checkpoint(tmp_path / "model", config, shapes)
    text = write_tokens(tmp_path / "text.bin", 2000)
    code, said, memory = peak("eval", tmp_path / "model", "--data", text, "--context", 1000, "--compute", "fp32")
    assert code == 0, said
    assert memory < MOST, memory


def test_many_experts_in_one_tensor_make_no_table_of_pairs(tmp_path):
    H, F, V, E = 2, 1, 64, 50_000
    config = {**tiny.MISTRAL, "hidden_size": H, "intermediate_size": F, "num_hidden_layers": 1, "num_attention_heads": 1, "max_position_embeddings": 500,
              "num_key_value_heads": 1, "head_dim": 2, "vocab_size": V, "tie_word_embeddings": True, "sliding_window": None,
              "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": E, "num_experts_per_tok": 2}
    layer = "model.layers.0."
    shapes = {"model.embed_tokens.weight": (V, H), "model.norm.weight": (H,),
              layer + "input_layernorm.weight": (H,), layer + "post_attention_layernorm.weight": (H,)}
    shapes |= {f"{layer}self_attn.{one}_proj.weight": (H, H) for one in "qkvo"}
    shapes |= {layer + "mlp.gate.weight": (E, H), layer + "mlp.experts.gate_up_proj": (E, 2 * F, H),
               layer + "mlp.experts.down_proj": (E, H, F)}
    checkpoint(tmp_path / "model", config, shapes)
    text = write_tokens(tmp_path / "text.bin", 1000)
    code, said, memory = peak("eval", tmp_path / "model", "--data", text, "--context", 500, "--compute", "fp32", "--json")
    assert code == 0, said
    assert memory < MOST, memory
    assert json.loads(said[said.index("{") :])["texts"][0]["layers"][0]["together"] is None


@pytest.mark.parametrize("how", ["overwritten", "replaced", "removed"])
def test_weights_that_change_during_a_run_are_an_error(how, tmp_path):
    """The program waits for its prompt when the weights are mapped already."""
    variant = tiny.Variant("endless", {"eos_token_id": None, "max_position_embeddings": 100_000})
    folder = tiny.make(tmp_path / "model", variant)
    weights = folder / "model.safetensors"
    command = [str(conftest.PROGRAM), "generate", str(folder), "--tokens", "1 2 3", "--max-tokens", "400", "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.read(1)  # a token: so the weights are mapped
    if how == "overwritten":
        with open(weights, "r+b") as file:
            file.seek(-4, os.SEEK_END)
            file.write(struct.pack("<f", 0.5))
    elif how == "replaced":
        (folder / "other").write_bytes(weights.read_bytes())
        os.replace(folder / "other", weights)
    else:
        weights.unlink()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1, said
    assert b"model.safetensors: was changed, replaced or removed" in said
