"""``python -m penstock.cli``: the program, by the interpreter that is at hand."""

from penstock.cli import main

main()
