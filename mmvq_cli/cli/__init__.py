"""The command line: parse, one core call, render, exit code."""

from mmvq_cli.cli.app import app, main

__all__ = ["app", "main"]
