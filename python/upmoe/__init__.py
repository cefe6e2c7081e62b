"""Text to token ids and back, for the program upmoe: `python -m upmoe --help`. `upmoe.ops`, `upmoe.routing`, `upmoe.balance`: the engine in torch."""

import importlib

__version__ = "0.1.0"  # as CMakeLists.txt has it; a test compares


def __getattr__(name: str):
    """What needs torch is imported when it is first asked for."""
    if name not in ("ops", "routing", "balance"):
        raise AttributeError(f"module 'upmoe' has no attribute '{name}'")
    return importlib.import_module(f"upmoe.{name}")
