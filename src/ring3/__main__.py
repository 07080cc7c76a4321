"""`python -m ring3` is the command `ring3`."""

from ring3.cli import main

main()
