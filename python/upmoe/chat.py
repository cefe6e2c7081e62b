"""chat: messages to the text of a prompt, by the checkpoint's own template, as transformers renders it."""

import datetime
import json
import sys
from pathlib import Path

from upmoe.documents import parsed
from upmoe.encode import nothing, read_text
from upmoe.errors import Error, printable
from upmoe.guard import Limits, out_of_memory
from upmoe.model import Folder
from upmoe.streams import write_text

NAME = "chat"
SUMMARY = "a JSON list of messages on standard input to the text of a prompt"


LIMITS = Limits("the model's chat template", seconds=20, memory=1 << 30)
clean_up = nothing


def add_arguments(parser) -> None:
    parser.add_argument("--no-generation-prompt", action="store_true", help="do not begin the assistant's answer")


def run(asked) -> None:
    folder = Folder(asked.model)
    settings = folder.json("tokenizer_config.json")
    template = find_template(folder, settings)
    messages = read_messages()
    write_text(render(template, messages, special_tokens(folder, settings), not asked.no_generation_prompt, folder.path))


def read_messages() -> list[dict]:
    messages = parsed(read_text(), "standard input:")
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise Error('standard input: expected a list of messages: [{"role": "user", "content": "..."}]')
    return [{key: value for key, value in one.items() if value is not None} for one in messages]


def find_template(folder: Folder, settings: dict) -> str:
    alone = folder.read("chat_template.jinja")
    if alone is not None:
        return alone.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    found = settings.get("chat_template")
    if isinstance(found, list):  # several, by name
        found = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}.get("default")
    if not isinstance(found, str):
        raise Error(f"{printable(folder.path)}: has no chat template; is it a base model?")
    return found


def special_tokens(folder: Folder, settings: dict) -> dict[str, str]:
    """bos_token, eos_token and so on: what a template may name."""
    found = {}
    for said in (folder.json("special_tokens_map.json"), settings):
        for key, value in said.items():
            content = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(content, str):
                found[key] = content
    return found


def render(template: str, messages: list[dict], tokens: dict[str, str], generation_prompt: bool, folder: Path) -> str:
    # The environment of transformers' chat_template_utils.py, without what only training needs.
    try:
        import jinja2
        import jinja2.ext
        import jinja2.sandbox
    except ImportError:
        raise Error(f"the Python package jinja2 is not installed for {sys.executable}: "
                    f"{sys.executable} -m pip install jinja2") from None
    if tuple(int(part) for part in jinja2.__version__.split(".")[:3]) < (3, 1, 6):
        raise Error(f"jinja2 {jinja2.__version__} has holes in its sandbox, and a template is a stranger's code: "
                    f"{sys.executable} -m pip install -U jinja2")

    class Generation(jinja2.ext.Extension):
        """{% generation %} marks what the assistant says, for training; here it is its contents."""

        tags = {"generation"}

        def parse(self, parser):
            next(parser.stream)
            return parser.parse_statements(["name:endgeneration"], drop_needle=True)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    try:
        return environment.from_string(template).render(
            messages=messages, tools=None, documents=None, add_generation_prompt=generation_prompt, **tokens)
    except MemoryError:
        raise Error(f"{printable(folder)}: {out_of_memory(LIMITS)}") from None
    except Exception as error:  # a template may do anything, and raise anything
        raise Error(f"{printable(folder)}: its chat template refuses: {printable(error)}") from None
