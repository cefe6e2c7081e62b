"""Tiny real checkpoints, made in the test by whichever transformers is running: nothing is downloaded.

Weights are large and norms uneven, so that a wrong rope, norm or expert shows in the logits.
"""

import dataclasses
import json
from pathlib import Path

import tokenizers
import torch
import transformers

REPOSITORY = Path(__file__).resolve().parents[2]
TEXT = REPOSITORY / "LICENSE"  # some English that is always here
NUM_TOKENS = 48  # longer than the windows and the original contexts below

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pad_token_id": None,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "vocab_size": 320,
}
MISTRAL = {
    **{key: value for key, value in LLAMA.items() if key not in ("attention_bias", "mlp_bias")},
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@dataclasses.dataclass(frozen=True)
class Variant:
    name: str
    changes: dict = dataclasses.field(default_factory=dict)  # to the config, in the old spelling
    family: dict = dataclasses.field(default_factory=lambda: LLAMA)
    dtype: torch.dtype = torch.float32
    # How config.json is spelt: "v4" (rope_theta + rope_scaling), "v5" (rope_parameters), "short" (v4 without the keys
    # that have Llama's default: what LLaMA-1 uploads look like), "saved" (as the running transformers wrote it).
    spelling: str = "v4"
    max_shard_size: str = "5GB"

    def __str__(self) -> str:
        return self.name

    def config(self) -> dict:
        return {**self.family, **self.changes}


VARIANTS = [
    Variant("llama"),
    Variant("short", {"num_key_value_heads": 4, "rms_norm_eps": 1e-06}, spelling="short"),
    Variant("wide_heads", {"head_dim": 32}),
    Variant("big_theta", {"rope_theta": 500000}),
    Variant("big_theta_v5", {"rope_theta": 500000.0}, spelling="v5"),
    Variant("llama3_rope", {"rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE}),
    Variant("llama3_rope_v5", {"rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE}, spelling="v5"),
    Variant("linear_rope", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    Variant("dynamic_rope", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}, "max_position_embeddings": 32}),
    Variant("yarn_rope", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}}),
    Variant("tied", {"tie_word_embeddings": True}),
    Variant("tied_v5", {"tie_word_embeddings": True}, spelling="v5"),
    Variant("eos_list", {"eos_token_id": [2, 0]}),
    Variant("sharded", max_shard_size="60KB"),
    Variant("bf16", dtype=torch.bfloat16),
    Variant("fp16", dtype=torch.float16),
    Variant("saved_here", {"rope_theta": 500000.0}, spelling="saved"),
    Variant("mistral", {"sliding_window": None}, family=MISTRAL),
    Variant("mistral_window", {"sliding_window": 8}, family=MISTRAL),
]
# Wide enough for statistics over its rows, large enough that a conversion has many blocks.
WIDE = Variant("wide", {"hidden_size": 128, "head_dim": 32, "intermediate_size": 512})


def dense_config(variant: Variant) -> transformers.PretrainedConfig:
    """The config that the running transformers has to see, whatever the spelling in the folder."""
    return as_config(variant.config())


def as_config(config: dict) -> transformers.PretrainedConfig:
    return transformers.AutoConfig.for_model(**config)


def draw_weights(model: transformers.PreTrainedModel) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1:
                weight.copy_(1 + 0.2 * noise)
            elif "mlp" in name:  # with a mean, which Drop-Upcycling has to keep
                weight.copy_((0.3 + noise) / weight.shape[-1] ** 0.5)
            else:
                weight.copy_(noise / weight.shape[-1] ** 0.5)


def make(folder: Path, variant: Variant) -> Path:
    """Writes a checkpoint with tokenizer, chat template and card."""
    model = transformers.AutoModelForCausalLM.from_config(dense_config(variant))
    draw_weights(model)
    model.to(variant.dtype).save_pretrained(folder, max_shard_size=variant.max_shard_size)
    make_tokenizer().save_pretrained(folder)
    if variant.spelling != "saved":
        write_config(folder, variant.config(), variant.dtype, variant.spelling)
    (folder / "README.md").write_text("---\nlicense: mit\nbase_model: someone/something\n---\n# Tiny\n")
    return folder


def make_tokenizer() -> transformers.PreTrainedTokenizerFast:
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([TEXT.read_text()], trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = "{% for message in messages %}<s>{{ message['content'] }}</s>{% endfor %}"
    return tokenizer


def write_config(folder: Path, config: dict, dtype: torch.dtype = torch.float32, spelling: str = "v4") -> None:
    config = dict(config)
    dtype_name = str(dtype).removeprefix("torch.")
    if spelling == "v5":
        scaling = config.pop("rope_scaling") or {"rope_type": "default"}
        config |= {"rope_parameters": {"rope_theta": config.pop("rope_theta"), **scaling}, "dtype": dtype_name}
    else:
        config["torch_dtype"] = dtype_name
    if spelling == "short":
        for key in ("attention_bias", "attention_dropout", "head_dim", "mlp_bias", "num_key_value_heads", "rms_norm_eps",
                    "rope_scaling", "rope_theta", "tie_word_embeddings"):
            del config[key]
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def change_config(folder: Path, **changes) -> None:
    """Changes keys of the folder's config.json; None as a value is JSON's null."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes, indent=2))


def write_index(folder: Path, weight_map: dict[str, str]) -> None:
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
