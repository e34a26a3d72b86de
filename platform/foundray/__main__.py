"""`python -m foundray`."""

from foundray.cli import main

main()
