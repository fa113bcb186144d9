"""NVML without a GPU: a module like pynvml that answers from fields, and refuses what is in `refused`."""

from __future__ import annotations

from types import SimpleNamespace


class FakeNvml:
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU, NVML_TEMPERATURE_THRESHOLD_SLOWDOWN = 1, 2, 0, 1

    class NVMLError(Exception):
        pass

    def __init__(self, uuid="GPU-1", pids=(), **changes):
        self.uuid, self.pids, self.refused = uuid, pids, changes.pop("refused", ())
        self.sm_mhz, self.mem_mhz, self.power_mw, self.temp_c, self.bits = 1980, 3201, 412_500, 61, 0
        self.sets = []
        self.__dict__.update(changes)

    def nvmlInit(self):  # noqa: N802
        self._answer("init", None)

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        if uuid != self.uuid:
            raise self.NVMLError("not found")
        return "handle"

    def _answer(self, name, value):
        if name in self.refused:
            raise self.NVMLError("not supported")
        return value

    def nvmlDeviceGetClockInfo(self, handle, kind):  # noqa: N802
        return self._answer("clock", {1: self.sm_mhz, 2: self.mem_mhz}[kind])

    def nvmlDeviceGetMaxClockInfo(self, handle, kind):  # noqa: N802
        return self._answer("clock", 1980)

    def nvmlDeviceGetPowerUsage(self, handle):  # noqa: N802
        return self._answer("power", self.power_mw)

    def nvmlDeviceGetTemperature(self, handle, sensor):  # noqa: N802
        return self._answer("temperature", self.temp_c)

    def nvmlDeviceGetTemperatureThreshold(self, handle, kind):  # noqa: N802
        return self._answer("threshold", 87)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):  # noqa: N802
        return self._answer("bits", self.bits)

    def nvmlDeviceGetComputeRunningProcesses(self, handle):  # noqa: N802
        return self._answer("pids", [SimpleNamespace(pid=pid) for pid in self.pids])

    def nvmlDeviceGetEccMode(self, handle):  # noqa: N802
        return self._answer("ecc", [1, 1])

    def nvmlDeviceGetMigMode(self, handle):  # noqa: N802
        return self._answer("mig", [0, 1])

    def nvmlDeviceGetPersistenceMode(self, handle):  # noqa: N802
        return self._answer("persistence", 1)

    def __getattr__(self, name):
        raise AssertionError(f"{name} is not a question")  # nothing may change the card
