"""What a checkpoint's folder says about its tokens."""

import json
import sys
from pathlib import Path

from upmoe.errors import Error, UsageError, printable

MAX_JSON = 64 << 20


def read_json(path: Path) -> dict:
    """The object in a JSON file; empty where there is no such file."""
    if not path.is_file():
        return {}
    if path.stat().st_size > MAX_JSON:
        raise Error(f"{printable(path)}: {path.stat().st_size} bytes, at most {MAX_JSON} expected of such a file")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise Error(f"{printable(path)}: is not valid JSON: {printable(error)}") from None
    if not isinstance(found, dict):
        raise Error(f"{printable(path)}: is no JSON object")
    return found


class Model:
    def __init__(self, folder: str):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise Error(f"{printable(folder)}: no such folder; a hub id is known to `upmoe`, not to `python -m upmoe`")
        self.config = read_json(self.folder / "config.json")
        self._tokenizer = None

    @property
    def tokenizer(self):
        """A tokenizers.Tokenizer that neither cuts nor pads."""
        if self._tokenizer is None:
            self._tokenizer = self._load()
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
        return self._tokenizer

    def _load(self):
        try:
            import tokenizers
        except ImportError:
            raise Error(f"the Python package tokenizers is not installed for {sys.executable}: "
                        f"{sys.executable} -m pip install tokenizers") from None
        path = self.folder / "tokenizer.json"
        if not path.is_file():
            raise Error(f"{printable(self.folder)}: has no tokenizer.json; transformers makes one: "
                        "AutoTokenizer.from_pretrained(MODEL).save_pretrained(MODEL)")
        try:
            return tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises plain Exception
            raise Error(f"{printable(path)}: cannot be read: {printable(error)}") from None

    @property
    def vocabulary(self) -> int:
        """One more than the largest id that the tokenizer makes."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def special_id(self, name: str) -> int | None:
        """eos_token_id or bos_token_id, of config.json or else generation_config.json; of a list, the first."""
        for said in (self.config, read_json(self.folder / "generation_config.json")):
            found = said.get(name)
            if isinstance(found, list) and found:
                found = found[0]
            if isinstance(found, int) and not isinstance(found, bool) and found >= 0:
                return found
        return None

    def require_id(self, number: int, what: str) -> int:
        if not 0 <= number < self.vocabulary:
            raise UsageError(f"{what} is {number}, and the vocabulary ends at {self.vocabulary - 1}")
        return number
