"""A GPU's bits are those of the host, for what tests/host_target/bits.py says must agree."""

from __future__ import annotations

from dataclasses import fields

import pytest

from mmvq_cli.engine.cuda import CudaEngine
from mmvq_cli.engine.discovery import cuda_available
from mmvq_cli.errors import InvalidProblem
from mmvq_cli.op import Args, Plan
from tests.host_target.bits import all_cases, committed

USABLE, REASON = cuda_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not USABLE, reason=REASON)]

CASES = {case.name: case for case in all_cases()}


class Gpu:
    """The first GPU, with the grids of real runs."""

    def __init__(self):
        self.engine = CudaEngine(0)

    def upload(self, args):
        values = {field.name: getattr(args, field.name) for field in fields(Args)}
        return Args(**{name: None if value is None else self.engine.upload(value) for name, value in values.items()})

    def product(self, d, args):
        plan, args = Plan.select(d, self.engine.device, "reference"), self.upload(args)
        workspace = self.engine.xp.empty(max(1, plan.workspace_size()), self.engine.xp.uint8)
        plan.run(args, workspace)
        scratch = self.engine.download(workspace).tobytes()
        parts = {region.name: scratch[region.offset : region.offset + region.n_bytes] for region in plan.workspace}
        return {"output": self.engine.download(args.output).tobytes(), **parts}

    def dequantize(self, format, packed, n_cols):
        return self.engine.dequantize(format, self.engine.upload(packed.reshape(-1)), n_cols).tobytes()

    def exact(self, d, args):
        reference = self.engine.reference(d, self.upload(args))
        return [reference.values.tobytes(), reference.magnitude.tobytes()]

    def validate(self, d, args):
        try:
            self.engine.validate_routing(d, self.upload(args))
        except InvalidProblem as error:
            return error.message
        return ""

    def fill(self, format, n_bytes, seed):
        return self.engine.download(self.engine.synthesize(format, n_bytes, seed)).tobytes()


@pytest.fixture(scope="module")
def gpu():
    return Gpu()


@pytest.mark.parametrize("name", CASES)
def test_the_bits_are_the_hosts(gpu, name):
    row = committed()[name]
    assert CASES[name].digest_of_inputs() == row["inputs"], "this machine makes other inputs"
    assert CASES[name].digest(gpu) == row["results"]
