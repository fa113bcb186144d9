"""github-action-benchmark's `customSmallerIsBetter`: a list of name, unit, value, range, extra (its README)."""

from __future__ import annotations

import json
from collections.abc import Sequence

from mmvq_cli.record.schema import Record


def github_action_json(records: Sequence[Record]) -> str:
    """Write the median time of each timed record, in ns, with its 95 % interval as range."""
    entries = []
    for record in records:
        if record.timing is None:
            continue
        entry = {
            "name": record.ids.case_id,
            "unit": "ns",
            "value": record.timing.gpu_ns.median,
            "extra": f"{record.env.device.name}, {record.ids.kernel.name}, run {record.ids.run_id}",
        }
        if record.timing.ci95_rel is not None:
            entry["range"] = f"± {record.timing.gpu_ns.median * record.timing.ci95_rel:.6g}"
        entries.append(entry)
    return json.dumps(entries, indent=1, ensure_ascii=False) + "\n"
