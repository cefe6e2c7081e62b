"""Text to token ids and back, for the program upmoe: `python -m upmoe --help`."""

__version__ = "0.1.0"  # as CMakeLists.txt has it; a test compares
