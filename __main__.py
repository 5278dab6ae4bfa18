"""``python -m loopnest``."""

from .compiler.cli import main

main(prog_name="loopnest")
