"""What a checkpoint's folder says about its tokens."""

import os
import sys
from pathlib import Path

from upmoe.documents import open_regular, parsed
from upmoe.errors import Error, UsageError, printable

# What convert takes of each (upmoe/checkpoint/folder.cpp, side_files.cpp; model/generate.cpp).
MAX_BYTES = {"config.json": 4 << 20, "tokenizer_config.json": 16 << 20, "tokenizer.json": 256 << 20, "chat_template.jinja": 256 << 20}
MAX_OTHER = 64 << 20


class Folder:
    """A stranger's folder, as upmoe/checkpoint/folder.h: of it only files are read that lie in the folder itself or, in a
    Hugging Face cache, in the repository's blobs."""

    def __init__(self, name: str):
        self.path = Path(name)
        if not self.path.is_dir():
            raise Error(f"{printable(name)}: no such folder; a hub id is known to `upmoe`, not to `python -m upmoe`")
        here = self.path.resolve()
        self.roots = [here]
        blobs = here.parent.parent / "blobs"
        # Blobs that were a link themselves could be any folder of ours.
        if here.parent.name == "snapshots" and blobs.is_dir() and not blobs.is_symlink():
            self.roots.append(blobs)

    def read(self, name: str) -> bytes | None:
        """None where there is no such file."""
        path, most = self.path / name, MAX_BYTES.get(name, MAX_OTHER)
        if not os.path.lexists(path):
            return None
        try:
            target = Path(os.path.realpath(path, strict=True))
        except OSError as error:  # it names what the link leads to
            raise Error(f"{printable(path)}: {error.strerror}") from None
        if not any(root in target.parents for root in self.roots):
            raise Error(f"{printable(path)}: is a link that leads out of the folder, to {printable(target)}")
        with open_regular(target) as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(most + 1) if size <= most else b""
        if max(size, len(data)) > most:
            raise Error(f"{printable(path)}: {max(size, len(data))} bytes, at most {most} expected of such a file")
        return data

    def json(self, name: str) -> dict:
        """The object in a JSON file; empty where there is no such file."""
        data = self.read(name)
        if data is None:
            return {}
        found = parsed(data, f"{printable(self.path / name)}:")
        if not isinstance(found, dict):
            raise Error(f"{printable(self.path / name)}: is no JSON object")
        return found


class Model:
    def __init__(self, name: str):
        self.folder = Folder(name)
        self.config = self.folder.json("config.json")
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
        path, data = self.folder.path / "tokenizer.json", self.folder.read("tokenizer.json")
        if data is None:
            raise Error(f"{printable(self.folder.path)}: has no tokenizer.json; transformers makes one: "
                        "AutoTokenizer.from_pretrained(MODEL).save_pretrained(MODEL)")
        try:
            return tokenizers.Tokenizer.from_buffer(data)
        except Exception as error:  # tokenizers raises plain Exception
            raise Error(f"{printable(path)}: cannot be read: {printable(error)}") from None

    @property
    def vocabulary(self) -> int:
        """One more than the largest id that the tokenizer makes."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def special_id(self, name: str) -> int | None:
        """eos_token_id or bos_token_id, of config.json or else generation_config.json; of a list, the first."""
        for said in (self.config, self.folder.json("generation_config.json")):
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
