"""Records in other tools' formats: nvbench's JSON, llama.cpp's SQL rows, github-action-benchmark's JSON."""

from mmvq_cli.record.export.github_action import github_action_json
from mmvq_cli.record.export.llama_sql import llama_sql
from mmvq_cli.record.export.nvbench import nvbench_json

__all__ = ["github_action_json", "llama_sql", "nvbench_json"]
