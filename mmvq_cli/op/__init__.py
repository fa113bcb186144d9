"""The contract of the operation: formats, the problem, the plan, the arguments; pure Python, no device."""

from mmvq_cli.op.args import Args
from mmvq_cli.op.descriptor import Accumulate, Descriptor, Dtype, OutputMode, Rows
from mmvq_cli.op.device import CPU, Device, find_device, known_devices
from mmvq_cli.op.formats import FORMATS, Format, find_format
from mmvq_cli.op.plan import Launch, Plan, Preference, Sku
from mmvq_cli.op.precision import PrecisionGuarantee

__all__ = [
    "CPU",
    "FORMATS",
    "Accumulate",
    "Args",
    "Descriptor",
    "Device",
    "Dtype",
    "Format",
    "Launch",
    "OutputMode",
    "Plan",
    "PrecisionGuarantee",
    "Preference",
    "Rows",
    "Sku",
    "find_device",
    "find_format",
    "known_devices",
]
