"""`python -m diracx.tasks.cli` runs the console script, for environments that have only the interpreter on the path."""

from diracx.tasks.cli import main

main()
