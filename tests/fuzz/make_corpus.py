#!/usr/bin/env python3
"""make_corpus.py FOLDER: makes FOLDER/TARGET/ anew for each fuzz target, with a file for each input of its corpus.

The seeds below have words for names. The inputs that runs have found (found_inputs.py) are named by a hash.
"""

import json
import pathlib
import shutil
import struct
import sys

import found_inputs

CORPUS = pathlib.Path(sys.argv[1])


def write(target: str, seeds: dict[str, bytes | str]) -> None:
    folder = CORPUS / target
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, seed in seeds.items():
        (folder / name).write_bytes(seed.encode() if isinstance(seed, str) else seed)
    for text in found_inputs.read(target):
        (folder / found_inputs.name(text)).write_bytes(text)


def safetensors(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(dtype: str, shape: list[int], begin: int, end: int, **more: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end], **more}


two = {"__metadata__": {"format": "pt"}, "a": tensor("BF16", [2, 3], 0, 12), "b": tensor("F32", [1], 12, 16)}
write("safetensors_fuzz", {
    "two": safetensors(two, bytes(16)),
    "none": safetensors({}),
    "empty_and_scalar": safetensors({"e": tensor("F16", [2, 0], 0, 0), "s": tensor("I64", [], 0, 8)}, bytes(8)),
    "small_types": safetensors({"f4": tensor("F4", [4], 0, 2), "f6": tensor("F6_E2M3", [4], 2, 5)}, bytes(5)),
    "unknown_fields": safetensors({"a": tensor("U8", [1], 0, 1, extra=[1, {"b": [None, True, -1.5e3]}])}, b"x"),
    "hole": safetensors({"a": tensor("U8", [1], 0, 1), "b": tensor("U8", [1], 2, 3)}, bytes(3)),
    "overflow": safetensors({"a": tensor("F32", [2**32, 2**32], 0, 0)}),
    "escapes": safetensors({"\x00\"\\\u202e𝛾": tensor("U8", [0], 0, 0)}),
    "header_only": b"\x10" + json.dumps(two, indent=1).encode(),  # the first byte: bytes of data
})
write("index_fuzz", {
    "two": json.dumps({"metadata": {"total_size": 16}, "weight_map": {
        "a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}),
    "parent": json.dumps({"weight_map": {"a": "../x.safetensors"}}),
    "absolute": json.dumps({"weight_map": {"a": "/etc/x.safetensors"}}),
    "empty": json.dumps({"weight_map": {}}),
    "twice": '{"weight_map":{"a":"x.safetensors","a":"y.safetensors"}}',
    "deep": '{"weight_map":' + "[" * 70,
})
llama3 = {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}
tiny = {"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu", "rms_norm_eps": 1e-05}
write("dense_config_fuzz", {
    "least": json.dumps({"model_type": "llama"}),
    "tiny": json.dumps({**tiny, "eos_token_id": [1, 2], "pad_token_id": -1, "tie_word_embeddings": True}),
    "mistral": json.dumps({"model_type": "mistral", "sliding_window": None, "head_dim": 128}),
    "rope_v4": json.dumps({**tiny, "rope_theta": 500000.0, "rope_scaling": llama3}),
    "rope_v5": json.dumps({**tiny, "rope_parameters": {"rope_theta": 1000000, **llama3}}),
    "rope_old": json.dumps({**tiny, "rope_scaling": {"type": "linear", "factor": 2.0}}),
    "yarn": json.dumps({**tiny, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 32}}),
    "partial": json.dumps({**tiny, "partial_rotary_factor": 0.5}),
    "biased": json.dumps({**tiny, "attention_bias": True, "mlp_bias": True, "dtype": "bfloat16"}),
    "quantised": json.dumps({**tiny, "quantization_config": {"quant_method": "gptq"}}),
    "moe": json.dumps({"model_type": "mixtral"}),
    "huge": json.dumps({"model_type": "llama", "hidden_size": 2**31 - 1, "num_hidden_layers": 10000}),
    "odd_head": json.dumps({**tiny, "head_dim": 7}),
    "theta": json.dumps({**tiny, "rope_theta": 1e-308}),
    "factor": json.dumps({**tiny, "rope_scaling": {"type": "dynamic", "factor": 0}}),
    "truncate": json.dumps({**tiny, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "truncate": "x"}}),
    "eos": json.dumps({**tiny, "eos_token_id": 2**63}),
})
mixtral = {**tiny, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
write("model_config_fuzz", {
    "dense": json.dumps(tiny),
    "mixtral": json.dumps(mixtral),
    "defaults": json.dumps({"model_type": "mixtral"}),
    "many_experts": json.dumps({**mixtral, "num_local_experts": 100000, "num_hidden_layers": 10000}),
    "no_expert": json.dumps({**mixtral, "num_local_experts": 0, "intermediate_size": -1}),
    "other_types": json.dumps({**mixtral, "num_local_experts": "4", "num_experts_per_tok": 0.5}),
    "window": json.dumps({**mixtral, "sliding_window": 16, "router_jitter_noise": 0.1}),
    "yarn": json.dumps({**mixtral, "rope_parameters": {"rope_type": "yarn", "factor": 4, "beta_slow": 0, "rope_theta": 2}}),
})
write("side_files_fuzz", {
    "v5": json.dumps({"backend": "tokenizers", "tokenizer_class": "TokenizersBackend", "is_local": True,
                      "extra_special_tokens": ["<a>", "<b>"]}),
    "v4": json.dumps({"tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": {"0": {"content": "<unk>"}}}),
    "names": json.dumps({"tokenizer_class": "TokenizersBackend", "model_input_names": ["input_ids"],
                         "additional_special_tokens": ["<x>"], "extra_special_tokens": []}),
    "card": "---\nlicense: apache-2.0\nlanguage:\n- en\n- de\ntags: [a, b]\nbase_model: x/y\n---\n# Title\n",
    "card_windows": "---\r\nlicense: mit\r\n---\r\n",
    "card_hostile": "---\nlicense: \x1b[2J\nlanguage: \u202ede\nlicense: mit\n",
    "card_head": "license: mit\nlicense: other\n  more\n- item\n",
    "card_open": "---\nlicense: [mit\nlanguage:\n- 'en\n  - de\n---\n",
    "code": json.dumps({"auto_map": {"AutoTokenizer": ["a.B", None]}, "a": [{"auto_map": 1}]}),
})
write("recipe_fuzz", {
    "written": '# upmoe 0.1.0\nmethod = "drop"\nratio = 0.5\nindices = "shared"\nexperts = 8\ntop-k = 2\nseed = 0\n'
               'max-shard-size = "5000000000"\nkeep-tied = true\n',
    "source": 'source = "owner/name@main"\noutput = \'C:\\out\'\n"method" = """\ncopy"""\n',
    "numbers": "ratio = -1.5e-3\nexperts = 0x08\nseed = 9223372036854775807\ntop-k = 1_0\n",
    "guess": 'methd = "drop"\n',
    "table": "[method]\nexperts = 8\n[[seed]]\n",
    "other_types": "ratio = [0.5]\nseed = 1979-05-27T07:32:00Z\nmethod = {a.b = 1}\n",
    "escapes": 'source = "\\u001b[2J\\U0001d6fe\\\\"\nratio = nan\nexperts = +inf\n',
    "twice": "seed = 1\nseed = 2\n",
    "deep": "seed = " + "[" * 300,
    "dotted": "router.logit.std = 1\n",
    # A control byte stands for 450 levels.
    "deep_key": "seed.\x01\x01\x01x = 1\n",
    "deep_table": "[\x01\x01x]\nseed = 1\n",
    "deep_in_a_table": "[\x01\x01x]\n\x01\x01seed = 1\n",
    "deep_inline": "seed = {\x01x = 1}\n",
    "deep_lists": "seed = \x02\nratio = \x03\n",
})
head = json.dumps({"upmoe": "0.1.0", "options": {"method": "drop", "ratio": 0.5, "seed": 0}, "ranks": 1, "source": {
    "config.json": "db0cca0c0f5a55a6",
    "model.safetensors": {"bytes": 164568, "modified": "2026-11-24T06:57:05.423750388Z", "header": "b95b812be74a1649"}}})
write("journal_fuzz", {
    "whole":         'upmoe-journal 1 8df3970468dc3416 {"upmoe":"0.1.0","options":{"method":"drop","ratio":0.5,"indices":"shared","experts":4,"top-k":2,"target":"mixtral","seed":0,"router-init":"auto","router-logit-std":0.5,"max-shard-size":"2000000"},"ranks":1,"source":{"config.json":"db0cca0c0f5a55a6","model-00001-of-00002.safetensors":{"bytes":1902568,"modified":"2026-11-24T06:57:05.423750388Z","header":"0a09ac84d2e8839c"},"model-00002-of-00002.safetensors":{"bytes":164568,"modified":"2026-11-24T06:57:05.423750388Z","header":"b95b812be74a1649"}}}\n'
        '0 0 25631923b2f2db24 e1b386642e9d43e2\n'
        '1 0 998bf9338bf4b5b4 70b5110e9f8a983d\n'
        '2 0 4ffc853f1cc7f3ff d886ca07f278fd18\n',  # as a run has left it
    # Without the hashes, which the target puts in.
    "lines": head + "\n0 0 25631923b2f2db24\n1 0 998bf9338bf4b5b4\n0 1 0000000000000000\n",
    "large_numbers": head + "\n18446744073709551615 18446744073709551615 ffffffffffffffff\n",
    "odd_numbers": head + "\n00 1 25631923b2f2db24\n-1 0 1\n1 0x1 99\n18446744073709551616 0 1\n",
    "twice": head + "\n3 4 25631923b2f2db24\n3 4 998bf9338bf4b5b4\n",
    "no_json": "head\n0 0 25631923b2f2db24\n",
    "another_form": '{"options": [1, {"a": null}], "": {"/~": {}}}\n',
    "torn": head + "\n0 0 2563192",
    "empty_lines": head + "\n\n\n0 0 25631923b2f2db24\n",
})


def megatron(lengths: list[int], documents: list[int], code: int = 8, width: int = 2, pointers: list[int] | None = None) -> bytes:
    if pointers is None:
        pointers = [width * sum(lengths[:i]) for i in range(len(lengths))]
    head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, code, len(lengths), len(documents))
    return head + struct.pack(f"<{len(lengths)}i{len(pointers)}q{len(documents)}q", *lengths, *pointers, *documents)


def llmc(magic: int, version: int, count: int, data: bytes) -> bytes:
    return struct.pack("<256i", magic, version, count, *[0] * 253) + data


write("token_layout_fuzz", {
    "megatron": megatron([2, 1], [0, 1, 2]),
    "megatron_int32": megatron([2, 0, 3], [0, 0, 2, 3], 4, 4),
    "megatron_int64": megatron([1], [0, 1], 5, 8),
    "megatron_empty": megatron([], [0]),
    "megatron_huge": megatron([2**31 - 1], [0, 1], 1, 1),
    "megatron_negative": megatron([-1, 1], [0, 2], pointers=[0, -2]),
    "megatron_float": megatron([1], [0, 1], 7, 4),
    "megatron_modes": megatron([2, 1], [0, 2]) + b"\0\0",
    "llmc": llmc(20240520, 1, 3, bytes(6)),
    "llmc_llama3": llmc(20240801, 7, 2, struct.pack("<2I", 5, 2**31)),
    "llmc_choices": llmc(20240522, 1, 1, bytes(6)),
    "llmc_cut": llmc(20240520, 1, -1, bytes(6))[:20],
    "nanogpt": struct.pack("<3H", 1, 65535, 0),
    "odd": b"abc",
})


def calibration_record(D: int = 1, **more: object) -> str:
    """As short as can be: a long run reads no more than 1024 bytes of an input."""
    return json.dumps({"version": 1, "options": {"active": "2"}, "experts": 0, "texts": D * [{"name": "p", "xxh3": "0"}], "source": {
        "name": "", "model_type": "", "config_xxh3": "", "tensors": {"w": "0"}}, **more}, separators=(",", ":"))


def calibration_tensors(D: int, M: int, measured: int, H: int = 2, F: int = 2) -> dict[str, tuple[str, list[int], list[float]]]:
    """Of one layer and F neurons, of which the first is active for every token: type, shape and numbers of each tensor."""
    tokens, text = 3, [m * D // M for m in range(M)]
    covariance, co_activation, importance = (measured & bit for bit in (1, 2, 4))
    layer = {"router_input": [M, H], "router_input_mean": [D, H], "router_input_std": [D, H]}
    layer |= {"router_input_covariance": [H, H]} if covariance else {}
    layer |= {"ffn_output_mean": [D, H], "ffn_output_std": [D, H], "neuron_mean_abs": [D, F], "neuron_mean_square": [D, F]}
    layer |= {"importance": [D, F]} if importance else {}
    out = {"tokens": ("I64", [D], [tokens] * D), "sample.token": ("I64", [M], [m - text.index(text[m]) for m in range(M)]),
           "layer.0.active": ("I64", [D, F], [tokens, *[0] * (F - 1)] * D), "sample.text": ("I32", [M], text)}
    out |= {f"layer.0.{name}": ("F32", shape, [0.5] * shape[0] * shape[1]) for name, shape in layer.items()}
    if co_activation:
        out["layer.0.co_active"] = ("I32", [F, F], [tokens * D, *[0] * (F * F - 1)])
    return out


def calibration_data(D: int, M: int, measured: int) -> bytes:
    code = {"I64": "q", "I32": "i", "F32": "f"}
    return b"".join(struct.pack(f"<{len(numbers)}{code[dtype]}", *numbers)
                    for dtype, _, numbers in calibration_tensors(D, M, measured).values())


def calibration_parts(D: int = 1, M: int = 1, measured: int = 0, shape: str = "122", **more: object) -> bytes:
    return f"{shape}{D}{M}{measured}{calibration_record(D, **more)}\n".encode() + calibration_data(D, M, measured)


def calibration_file(metadata: dict[str, str], names: int = 99) -> bytes:
    """With the first so many of its tensors."""
    header, data = {"__metadata__": metadata}, calibration_data(1, 1, 0)
    end = 0
    for name, (dtype, shape, numbers) in list(calibration_tensors(1, 1, 0).items())[:names]:
        begin, end = end, end + len(numbers) * (8 if dtype == "I64" else 4)
        header[name] = tensor(dtype, shape, begin, end)
    text = json.dumps(header, separators=(",", ":"))
    text += " " * (-len(text) % 8)  # numbers at multiples of their size
    return len(text).to_bytes(8, "little") + text.encode() + data[:end]


write("calibration_fuzz", {
    "least": calibration_parts(),
    "all": calibration_parts(2, 3, measured=7),
    "pairs": calibration_parts(measured=2),
    "no_text": calibration_parts(0, 0),
    "wider": calibration_parts(shape="132"),
    "deeper": calibration_parts(shape="222"),
    "experts": calibration_parts(experts=8),
    "fewer_texts": calibration_parts(2, 2, texts=[]),
    "zeros": f"122110{calibration_record()}\n",
    "record": calibration_record(2),
    "odd_record": calibration_record(0, experts=0.5, texts={"a": {"name": "\x1b", "xxh3": "\u202e"}}),
    "whole": calibration_file({"upmoe.calibration": calibration_record()}),
    "cut": calibration_file({"upmoe.calibration": calibration_record()}, names=3),
    "no_samples": calibration_file({"upmoe.calibration": calibration_record()}, names=1),
    "no_record": calibration_file({"format": "pt"}, names=1),
})


def record(method: str = "copy", **options: object) -> str:
    return json.dumps({"upmoe": "0.1.0", "options": {"method": method, "experts": 2, "top-k": 1, "seed": 0, **options},
                       "function_preserving": False, "not_exact_because": "", "source": {"config_xxh3": "0", "tensors": {"w": "00ff"}},
                       "output": {"tensors": {"w": "00ff", "v": "0"}}}, separators=(",", ":"))


write("record_fuzz", {
    "copy": record(),
    "drop": record("drop", ratio=0.5, indices="shared"),
    "drop_per_matrix": record("drop", ratio=1, indices="per-matrix", seed=2**64 - 1),
    "noise": record("noise", **{"ratio": 0.5, "sigma": 0.01, "scale": "absolute"}),
    "scratch": record("scratch"),
    "split": record("split", order="random", rescale=0.0),
    "split_uneven": record("split", order="sequential", rescale=2, experts=4),
    "no_method": record("dorp"),
    "no_option": record("drop", ratio=0.5),
    "other_types": record("drop", ratio=[0.5], indices={"a": None}),
    "huge": record(experts=2**63 - 1),
    "huge_ratio": record("drop", ratio=1e308, indices="shared"),
    "negative_seed": record(seed=-1),
    "fraction": record(experts=2.5),
    "no_integer": record(seed=1e300),
    "no_options": '{"options":[]}',
})
