"""Makes the folders beside it: tiny checkpoints, and what transformers computes with them in float32.

    .venv/bin/python tests/reference/dump.py

Made with transformers 5.23.0 and torch 2.13.0 on a CPU. tests/model/reference_test.cpp compares without Python, and
tests/python/test_reference.py checks that the transformers it runs with still computes the same.

expected.safetensors has what goes in (token, target, and for llama document and position: I64 [B, T]) and what comes out
(logits [B, T, V], loss [], and grad.NAME of every weight of model.safetensors: F32).
"""

import sys
from pathlib import Path

import safetensors.torch
import torch
import transformers

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "python"))

import reference  # noqa: E402
import tiny  # noqa: E402

BATCH, LENGTH = 2, 20
SMALL = {"hidden_size": 16, "head_dim": 8, "intermediate_size": 24, "max_position_embeddings": 32, "vocab_size": 48}
LLAMA3_ROPE = {**tiny.LLAMA3_ROPE, "original_max_position_embeddings": 8}
MODELS = {
    "llama": {**tiny.LLAMA, **SMALL, "rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE},
    "mistral": {**tiny.MISTRAL, **SMALL, "sliding_window": 6},
    "mixtral": {
        **tiny.MISTRAL, **SMALL, "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "sliding_window": None,
        "intermediate_size": 12, "num_local_experts": 4, "num_experts_per_tok": 2, "output_router_logits": False,
        "router_aux_loss_coef": 0.001, "router_jitter_noise": 0.0,
    },
}


def inputs(name: str) -> dict[str, torch.Tensor]:
    token = torch.randint(SMALL["vocab_size"], (BATCH, LENGTH), generator=torch.Generator().manual_seed(1))
    target = reference.shifted(token, torch.ones_like(token, dtype=torch.bool))
    if name != "llama":
        return {"token": token, "target": target}
    document, position = reference.documents([[LENGTH], [3, 10, 7]])
    return {"token": token, "target": reference.within(document, target), "document": document, "position": position}


def main() -> None:
    for name, config in MODELS.items():
        folder = HERE / name
        model = transformers.AutoModelForCausalLM.from_config(tiny.as_config(config))
        tiny.draw_weights(model)
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        tiny.write_config(folder, config)
        given = inputs(name)
        found = reference.expected(folder, **given)
        safetensors.torch.save_file(given | {key: value.contiguous() for key, value in found.items()},
                                    folder / "expected.safetensors")


if __name__ == "__main__":
    main()
