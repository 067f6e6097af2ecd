"""`python -m roadbits.fleet` is the command line."""

from roadbits.fleet.cli import main

main()
