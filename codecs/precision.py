"""In which numbers networks compute outside the exact parts of a codec.

Not here: integer arithmetic (`integer`).
"""

import torch


def reduced_precision(device: torch.device) -> torch.autocast:
    """Return the context in which networks compute: bfloat16, but float32 on a processor that would be slower in it."""
    gains = device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=gains)


def best_device() -> torch.device:
    """Return the device that networks are trained on: a GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
