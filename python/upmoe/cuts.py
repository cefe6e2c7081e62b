"""Where a long text may be cut so that its pieces, one after the other, give the ids of the whole.

A cut lies between a letter c and a character d that is a space, a line break or a punctuation mark. It is safe where every
step of the tokenizer does before it as if the text ended there, and behind it as if c alone stood before:

- no added token has cd in it, or looks at its neighbours there, so none lies across;
- the normalizer changes characters one by one, or composes them, which d never does with what is before it;
- the pre-tokenizer is one of those below, which end a piece at c whenever d follows, and look no further back from d;
- or, where no pre-tokenizer cuts there, the model is a BPE with no cd in any of its tokens: what merges make is a token, so
  no merge reaches across, and those on either side know nothing of each other.

Then ids(a + c + d + b) = ids(a + c) + ids(c + d + b) without the ids of c in front. A tokenizer with another step has no cut.
"""

import unicodedata
from collections.abc import Iterator

MAX_UNCUT = 16 << 20  # characters that are encoded at once where there is no cut: some 2.5 GB of memory

MARKS = " \n.,;:!?)\u3002\uff0c\u3001"  # all ASCII, or ideographic comma and full stop: they combine with nothing before them

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"


def _words(suffix: str) -> str:
    return rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+{suffix}|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*{suffix}"


# In each, what holds a letter ends with the last one of its run (a mark or a contraction may follow, which no d begins),
# and the only look ahead is from white space to the very next character.
PATTERNS = {
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",  # Llama 3
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",  # Qwen2
    rf"{_words(_CONTRACTIONS + '?')}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",  # GPT-4o, Llama 4
    rf"{_words('')}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",  # Mistral's tekken
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",  # GPT-2
}


class Cuts:
    """Of a tokenizer, given as tokenizer.json says it and by its normalizer, a tokenizers.normalizers.Normalizer or None."""

    def __init__(self, spec: dict, normalizer):
        self.normalizer = normalizer
        self.replaced: dict[str, str] = {}  # characters, by the normalizer or Metaspace
        self.lower, self.forms = False, []
        self.marks = MARKS  # d may be one of these
        self.by_model = False  # no pre-tokenizer cuts there
        self.known: dict[str, bool] = {}
        self.added = spec.get("added_tokens") or []
        self.model = spec.get("model") or {}
        if self.model.get("dropout") or not (self._reads_normalizer(spec) and self._reads_pre_tokenizer(spec)):
            self.marks = ""

    def _reads_normalizer(self, spec: dict) -> bool:
        for step in _steps(spec.get("normalizer"), "normalizers"):
            kind, pattern = step.get("type"), step.get("pattern")
            if kind == "Lowercase":
                self.lower = True
            elif kind == "Replace" and isinstance(pattern, dict) and len(pattern.get("String", "")) == 1:
                if self.replaced.setdefault(pattern["String"], step["content"]) != step["content"] or any(
                        pattern["String"] in content for content in self.replaced.values()):
                    return False  # one after the other, they do what neither does alone
            elif kind in ("NFC", "NFD", "NFKC", "NFKD"):
                self.forms.append(kind)
            elif kind != "Prepend":
                return False
        return True

    def _reads_pre_tokenizer(self, spec: dict) -> bool:
        """Up to the first that cuts."""
        changed = False
        for step in _steps(spec.get("pre_tokenizer"), "pretokenizers"):
            kind = step.get("type")
            if changed:
                return False  # what it sees is no longer the text
            if kind == "Digits":
                continue
            if kind == "Split":
                how = (step.get("behavior"), step.get("invert"))
                return step.get("pattern", {}).get("Regex") in PATTERNS and how in (("Isolated", False), ("Removed", True))
            if kind == "ByteLevel" and step.get("use_regex", True):
                return True
            if kind == "Metaspace" and self.replaced.get(" ", step["replacement"]) == step["replacement"]:
                self.replaced[" "] = step["replacement"]
                self.marks = " "
                if step.get("split", True):
                    return True
            elif kind == "ByteLevel" and not self.replaced.keys() & {" ", "\n"}:
                self.replaced |= {" ": "\u0120", "\n": "\u010a"}
            else:
                return False
            changed = True
        self.by_model = True
        return self.model.get("type") == "BPE" and not any(
            self.model.get(key) for key in ("continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"))

    def is_safe(self, c: str, d: str) -> bool:
        if d not in self.marks:
            return False
        # A letter for every version of Unicode.
        if not (unicodedata.category(c).startswith("L") and unicodedata.ucd_3_2_0.category(c).startswith("L")):
            return False
        # And one that stays what it is, small or large: a mark that it is taken apart into would go with d.
        for letter in {c, c.lower() if self.lower else c}:
            if len(letter) != 1 or letter in self.replaced or any(unicodedata.normalize(form, letter) != letter for form in self.forms):
                return False
        if c + d not in self.known:
            self.known[c + d] = self._finds_safe(c, d)
        return self.known[c + d]

    def _finds_safe(self, c: str, d: str) -> bool:
        c_now, d_now = (self.replaced.get(x, x.lower() if self.lower else x) for x in (c, d))
        for token in self.added:
            text = token["content"]
            for form in (text, self.normalizer.normalize_str(text) if self.normalizer else text):
                if any(pair in form for pair in (c + d, c + d_now, c_now + d, c_now + d_now)):
                    return False
                if form[-1:] in c + c_now:  # what follows such a token begins anew
                    return False
                if (token.get("single_word") or token.get("lstrip")) and form[:1] in d + d_now:
                    return False
        if not self.by_model:
            return d not in self.replaced or self.marks == " "
        vocabulary = self.model.get("vocab", {})
        return (c.isascii() and d.isascii() and d_now in (d, "\u2581", "\u0120", "\u010a")
                and c_now in vocabulary and d_now in vocabulary
                and not any(c_now + d_now in token for token in vocabulary))

    def last(self, text: str, low: int, high: int) -> int | None:
        """The last cut behind low, and at high at most."""
        return next((p for p in range(min(high, len(text) - 1), low, -1) if self.is_safe(text[p - 1], text[p])), None)

    def first(self, text: str, low: int, high: int) -> int | None:
        return next((p for p in range(low + 1, min(high, len(text) - 1) + 1) if self.is_safe(text[p - 1], text[p])), None)

    def pieces(self, text: str, most: int) -> Iterator[tuple[int, int]]:
        """Where they begin and end: of `most` characters at most where a cut allows it, and else of MAX_UNCUT.

        A piece that ends before the text does, and is longer than that, has no cut.
        """
        begin = 0
        while begin < len(text):
            end = len(text)
            if end - begin > most and self.marks:
                end = self.last(text, begin, begin + most) or self.first(text, begin + most, begin + MAX_UNCUT) or end
            yield begin, end
            begin = end


def _steps(step: dict | None, key: str) -> Iterator[dict]:
    if step is None:
        return
    if step.get("type") == "Sequence":
        for inner in step.get(key, []):
            yield from _steps(inner, key)
    else:
        yield step
