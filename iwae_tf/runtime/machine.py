"""What the program runs on."""

import os
import pathlib
import platform
import re

_CPU_INFO = pathlib.Path("/proc/cpuinfo")


def describe() -> str:
    """Returns the processor and its cores, and the GPUs that TensorFlow sees.

    Such as "Intel(R) Xeon(R) Processor, 2 cores" or "..., 16 cores, NVIDIA A100".
    """
    import tensorflow as tf

    cores = num_cores()
    parts = [_processor(), f"{cores} core{'s'[: cores > 1]}"]
    for gpu in tf.config.list_physical_devices("GPU"):
        parts.append(tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name))
    return ", ".join(parts)


def num_cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_gpu() -> bool:
    """Returns whether TensorFlow computes on a GPU."""
    import tensorflow as tf

    return bool(tf.config.list_logical_devices("GPU"))


def _processor():
    """The name of the processor; Linux has it in a file, other systems may know no more than its family."""
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", _CPU_INFO.read_text(errors="replace"), re.MULTILINE)
    except OSError:
        match = None
    return match[1].strip() if match else platform.processor() or platform.machine()
