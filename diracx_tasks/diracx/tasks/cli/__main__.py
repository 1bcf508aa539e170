"""`python -m diracx.tasks.cli`: the console script, for who has only the interpreter at hand."""

from diracx.tasks.cli import main

main()
