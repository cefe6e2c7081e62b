"""A long text that is encoded piece by piece has the ids of the whole, for every tokenizer that has a cut at all."""

import json
import random

import pytest
import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers, trainers

import tiny
from upmoe import cuts

TEXT = tiny.TEXT.read_text()
# What cuts could go wrong at: white space, contractions, marks that combine, digits, scripts, and halves of added tokens.
ALPHABET = ["a", "b", "th", "e", "A", "S", "Z", " ", " ", "  ", "\n", "\n\n", "\t", "\r\n", ".", ",", "'", "'s", "'re", "!", "?",
            ")", "(", "/", "1", "23", "é", "e\u0301", "\u0301", "\u0307", "İ", "ß", "日本", "語", "。", "，", "、", "가", "각", "क", "\u093f",
            "\u0958", "🙂", "\u200d", "\u00a0", "\u3000", "\u2581", "\u0120", "<s>", "<", "s>", "x.", "</s>", "ſ", "ﬁ", "Ⅷ"]
SPLITS = dict(zip(("llama3", "qwen2", "gpt4o", "tekken", "gpt2"), cuts.PATTERNS))


def bpe(pre_tokenizer=None, normalizer=None, byte_level=True, added=(), **options) -> tokenizers.Tokenizer:
    out = tokenizers.Tokenizer(models.BPE(**options))
    if pre_tokenizer is not None:
        out.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        out.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else []
    lines = TEXT.split("\n") + ["".join(random.Random(1).choices(ALPHABET, k=300))]
    out.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=900, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=alphabet, show_progress=False))
    out.add_tokens([tokenizers.AddedToken(**{"normalized": False, **one}) for one in added])
    return out


def split(pattern: str):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def llama2(**options) -> tokenizers.Tokenizer:
    """Without a pre-tokenizer: merges see the whole text, and only the vocabulary says that none crosses a space."""
    learnt = bpe(pre_tokenizers.Metaspace(prepend_scheme="never"), byte_level=False)
    spec = json.loads(learnt.to_str())
    spec["pre_tokenizer"] = None
    spec["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]}
    spec["model"] |= {"byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>", **options}
    return tokenizers.Tokenizer.from_str(json.dumps(spec))


def changed(tokenizer: tokenizers.Tokenizer, **model) -> tokenizers.Tokenizer:
    spec = json.loads(tokenizer.to_str())
    spec["model"] |= model
    return tokenizers.Tokenizer.from_str(json.dumps(spec))


BYTES = lambda **options: pre_tokenizers.ByteLevel(add_prefix_space=False, **options)
ADDED = [{"content": "e "}, {"content": "a"}, {"content": "th.", "normalized": True}, {"content": "<x>", "lstrip": True},
         {"content": ".b", "single_word": True}, {"content": "Z", "rstrip": True}]
WITH_CUTS = {
    **{name: lambda pattern=pattern: bpe(split(pattern)) for name, pattern in SPLITS.items()},
    "byte_level": lambda: bpe(BYTES()),
    "byte_level_prefix_space": lambda: bpe(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "digits": lambda: bpe(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES()])),
    "ignore_merges": lambda: changed(bpe(split(SPLITS["llama3"])), ignore_merges=True),
    **{form: lambda form=form: bpe(split(SPLITS["qwen2"]), getattr(normalizers, form)()) for form in ("NFC", "NFD", "NFKC", "NFKD")},
    "lowercase": lambda: bpe(split(SPLITS["llama3"]), normalizers.Lowercase()),
    "added": lambda: bpe(split(SPLITS["llama3"]), added=ADDED),
    "metaspace_first": lambda: bpe(pre_tokenizers.Metaspace(prepend_scheme="first"), byte_level=False),
    "metaspace_always": lambda: bpe(pre_tokenizers.Metaspace(prepend_scheme="always"), byte_level=False, added=ADDED),
    "llama2": llama2,
    "no_pieces": lambda: bpe(BYTES(use_regex=False)),
}


def ids_of(tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def cuts_of(tokenizer) -> cuts.Cuts:
    return cuts.Cuts(json.loads(tokenizer.to_str()), tokenizer.normalizer)


def in_pieces(tokenizer, text: str, most: int) -> tuple[list[int], int]:
    out, count = [], 0
    for begin, end in cuts_of(tokenizer).pieces(text, most):
        context = text[begin - 1] if begin else ""
        before, ids = ids_of(tokenizer, context), ids_of(tokenizer, context + text[begin:end])
        assert ids[: len(before)] == before
        out += ids[len(before):]
        count += 1
    return out, count


@pytest.mark.parametrize("make", WITH_CUTS.values(), ids=WITH_CUTS)
def test_pieces_give_the_ids_of_the_whole(make):
    tokenizer = make()
    draw = random.Random(0)
    total = 0
    for _ in range(150):
        text = "".join(draw.choices(ALPHABET, k=60))
        found, count = in_pieces(tokenizer, text, most=draw.choice([1, 3, 9]))
        assert found == ids_of(tokenizer, text), repr(text)
        total += count - 1
    found, count = in_pieces(tokenizer, TEXT, most=100)
    assert found == ids_of(tokenizer, TEXT)
    assert total + count > 50, "it never cut, which shows nothing"


WITHOUT_CUTS = {
    "another_pattern": lambda: bpe(split(r"\w+|\W+")),
    "pattern_behind_bytes": lambda: bpe(pre_tokenizers.Sequence([
        BYTES(use_regex=False), pre_tokenizers.Split(Regex(SPLITS["gpt2"]), "isolated")])),
    "merged_pieces": lambda: bpe(pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLITS["gpt2"]), "merged_with_previous"), BYTES(use_regex=False)])),
    "strip": lambda: bpe(BYTES(), normalizers.Strip()),
    "regex_normalizer": lambda: bpe(BYTES(), normalizers.Replace(Regex(r"\s+"), " ")),
    "replaced_before_bytes": lambda: bpe(BYTES(use_regex=False), normalizers.Replace(" ", "\u2581")),
    "line_break_replaced_before_bytes": lambda: bpe(BYTES(use_regex=False), normalizers.Replace("\n", " ")),
    "replaced_twice": lambda: bpe(BYTES(), normalizers.Sequence([normalizers.Replace("b", " "), normalizers.Replace(" ", "x")])),
    "dropout": lambda: changed(bpe(BYTES()), dropout=0.1),
    "suffix": lambda: changed(bpe(BYTES(use_regex=False)), end_of_word_suffix="</w>"),
    "unigram": lambda: tokenizers.Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0)),
}


@pytest.mark.parametrize("make", WITHOUT_CUTS.values(), ids=WITHOUT_CUTS)
def test_where_it_is_not_proven_there_is_no_cut(make):
    assert list(cuts_of(make()).pieces(TEXT, 100)) == [(0, len(TEXT))]


def test_a_token_that_crosses_a_space_is_not_cut():
    """As SuperBPE has: the same model, one token more."""
    spec = json.loads(bpe(BYTES(use_regex=False)).to_str())
    spec["model"]["vocab"]["e\u0120t"] = len(spec["model"]["vocab"])
    found = cuts.Cuts(spec, None)
    assert not found.is_safe("e", " ") and found.is_safe("Z", " ")


@pytest.mark.parametrize("content", ["K", "Ⅷ K", "xK"])
def test_an_added_token_is_known_by_what_the_normalizer_makes_of_it(content):
    added = [{"content": content, "normalized": True, "single_word": True}]
    tokenizer = bpe(pre_tokenizers.ByteLevel(add_prefix_space=True), normalizers.Lowercase(), added=added)
    assert not cuts_of(tokenizer).is_safe("k", " ") and cuts_of(tokenizer).is_safe("e", " ")
    text = "we talk, and walk. Look at k. it"
    for most in range(1, len(text)):
        assert in_pieces(tokenizer, text, most)[0] == ids_of(tokenizer, text)


def test_a_small_letter_of_an_added_token_stands_for_the_large_one():
    tokenizer = bpe(BYTES(use_regex=False), normalizers.Lowercase(), added=[{"content": "z e", "normalized": True}])
    assert not cuts_of(tokenizer).is_safe("Z", " ")


def test_a_letter_that_is_replaced_once_it_is_small_is_not_cut_behind():
    tokenizer = bpe(split(SPLITS["llama3"]), normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace("k", "x.")]))
    assert not cuts_of(tokenizer).is_safe("K", "\n") and cuts_of(tokenizer).is_safe("E", "\n")


NORMALIZERS = [
    normalizers.Lowercase(), normalizers.NFC(), normalizers.NFD(), normalizers.NFKC(), normalizers.Prepend("\u2581"),
    *(normalizers.Replace(*pair) for pair in ((" ", "\u2581"), ("\n", " "), ("a", "e"), ("S", "e"), (".", "\u0301"), ("b", "b."))),
]
PRE_TOKENIZERS = [
    None, BYTES(), BYTES(use_regex=False), pre_tokenizers.ByteLevel(add_prefix_space=True),
    pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
    *(pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split) for scheme in ("always", "first", "never") for split in (True, False)),
    *map(split, SPLITS.values()),
]


@pytest.mark.parametrize("seed", range(60))
def test_steps_drawn_at_random(seed):
    """One or two normalizers, a pre-tokenizer and added tokens."""
    draw = random.Random(seed)
    token = lambda: {"content": "".join(draw.choices(ALPHABET, k=draw.choice([1, 1, 2]))), "normalized": draw.random() < 0.8,
                     **{flag: draw.random() < 0.3 for flag in ("single_word", "lstrip", "rstrip")}}
    tokenizer = bpe(draw.choice(PRE_TOKENIZERS), normalizers.Sequence(draw.sample(NORMALIZERS, draw.choice([1, 1, 2]))),
                    added=[token() for _ in range(draw.choice([0, 1, 4]))])
    for _ in range(60):
        text = "".join(draw.choices(ALPHABET, k=60))
        assert in_pieces(tokenizer, text, draw.choice([1, 3, 9]))[0] == ids_of(tokenizer, text), repr(text)
