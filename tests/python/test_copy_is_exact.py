"""`copy` is the dense model: stock transformers computes the same logits, whatever the router."""

import json

import pytest
import torch
import transformers

import checkpoint
import tiny

every_variant = pytest.mark.parametrize("variant", tiny.VARIANTS, ids=str)


@pytest.fixture
def dense(tiny_folder, variant):
    return checkpoint.load_dense(tiny_folder(variant), variant)


# 1e-5: the experts' weights sum to 1 up to float32 rounding, and the sum of two halves rounds once more per layer.
@every_variant
def test_the_logits_are_the_dense_ones(tiny_folder, convert, dense, variant, router_init):
    out = convert(tiny_folder(variant), "--method", "copy", "--router-init", router_init, "--allow", "router-init")
    ids_BT = checkpoint.some_ids_BT()
    expected_BTV = checkpoint.logits_BTV(dense, ids_BT)
    assert checkpoint.relative_error(checkpoint.logits_BTV(checkpoint.load(out), ids_BT), expected_BTV) <= 1e-5


@pytest.mark.parametrize("experts,top_k", [(1, 1), (2, 1), (3, 3), (8, 5), (64, 2)])
def test_any_number_of_experts_gives_the_dense_logits(tiny_folder, convert, experts, top_k):
    variant = tiny.VARIANTS[0]
    source, ids_BT = tiny_folder(variant), checkpoint.some_ids_BT()
    out = convert(source, "--method", "copy", "--experts", experts, "--top-k", top_k)
    expected_BTV = checkpoint.logits_BTV(checkpoint.load_dense(source, variant), ids_BT)
    assert checkpoint.relative_error(checkpoint.logits_BTV(checkpoint.load(out), ids_BT), expected_BTV) <= 1e-5


@every_variant
def test_it_generates_what_the_dense_model_does(tiny_folder, convert, dense, variant):
    model = checkpoint.load(convert(tiny_folder(variant), "--method", "copy"))
    prompt_BT = checkpoint.some_ids_BT()[:1, :5]
    tokens = [m.generate(prompt_BT, max_new_tokens=8, do_sample=False, pad_token_id=0) for m in (dense, model)]
    assert tokens[0].tolist() == tokens[1].tolist()


@every_variant
def test_saved_by_transformers_and_loaded_again_it_is_the_same(tiny_folder, convert, tmp_path, variant):
    model = checkpoint.load(convert(tiny_folder(variant), "--method", "copy"))
    model.save_pretrained(tmp_path / "again")
    ids_BT = checkpoint.some_ids_BT()
    again_BTV = checkpoint.logits_BTV(checkpoint.load(tmp_path / "again"), ids_BT)
    assert torch.equal(again_BTV, checkpoint.logits_BTV(model, ids_BT))


@every_variant
def test_every_dense_weight_is_there_byte_for_byte(tiny_folder, convert, variant):
    source = tiny_folder(variant)
    dense, moe = checkpoint.tensors(source), checkpoint.tensors(convert(source, "--method", "copy", "--experts", 3))
    for name, weight in dense.items():
        if ".mlp." not in name:
            assert checkpoint.same_bytes(moe.pop(name), weight), name
            continue
        layer, matrix = int(name.split(".")[2]), name.split(".")[4].removesuffix("_proj")
        expert_name = checkpoint.MATRICES[matrix][0]
        for expert in range(3):
            name = f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{expert_name}.weight"
            assert checkpoint.same_bytes(moe.pop(name), weight), name
    if variant.config()["tie_word_embeddings"]:
        assert checkpoint.same_bytes(moe.pop("lm_head.weight"), dense["model.embed_tokens.weight"])
    assert {name: (weight.dtype, tuple(weight.shape)) for name, weight in moe.items()} == {
        f"model.layers.{layer}.block_sparse_moe.gate.weight": (torch.float32, (3, 64)) for layer in range(2)
    }


@every_variant
def test_the_tokenizer_gives_the_same_ids(tiny_folder, convert, variant):
    source = tiny_folder(variant)
    out, text = convert(source, "--method", "copy"), tiny.TEXT.read_text() + " <s> 2024 \n\n é漢字 </s>"
    expected = transformers.AutoTokenizer.from_pretrained(source)
    got = transformers.AutoTokenizer.from_pretrained(out)
    assert got(text).input_ids == expected(text).input_ids
    chat = [{"role": "user", "content": "hello"}]
    assert got.apply_chat_template(chat, tokenize=False) == expected.apply_chat_template(chat, tokenize=False)


def test_a_tokenizer_that_only_transformers_5_can_read_becomes_readable_by_both(tmp_path, convert):
    source = tiny.make(tmp_path / "source", tiny.VARIANTS[0])
    expected = transformers.AutoTokenizer.from_pretrained(source)(tiny.TEXT.read_text()).input_ids
    (source / "special_tokens_map.json").unlink(missing_ok=True)
    (source / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "backend": "tokenizers",
                "bos_token": "<s>",
                "eos_token": "</s>",
                "extra_special_tokens": ["</s>"],
                "is_local": True,
                "tokenizer_class": "TokenizersBackend",
                "unk_token": "<unk>",
            }
        )
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(convert(source, "--method", "copy"))
    assert tokenizer(tiny.TEXT.read_text()).input_ids == expected
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")


def test_a_tied_head_stays_tied_when_asked(tiny_folder, convert):
    [variant] = [variant for variant in tiny.VARIANTS if variant.name == "tied"]
    source, ids_BT = tiny_folder(variant), checkpoint.some_ids_BT()
    out = convert(source, "--method", "copy", "--keep-tied")
    assert "lm_head.weight" not in checkpoint.tensors(out)
    expected_BTV = checkpoint.logits_BTV(checkpoint.load_dense(source, variant), ids_BT)
    assert checkpoint.relative_error(checkpoint.logits_BTV(checkpoint.load(out), ids_BT), expected_BTV) <= 1e-5
