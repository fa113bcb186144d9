"""`python -m mmvq_cli`."""

from mmvq_cli.cli import main

main()
