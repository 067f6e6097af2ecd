"""In which numbers networks compute outside the exact parts of a codec.

Measured on a processor with AVX2 alone, one thread: a step of four convolutions 5x5 of 128 channels takes 7.4 s in
bfloat16, which such processors have to imitate, and .7 s in float32.

Not here: integer arithmetic (`integer`).
"""

import torch


def reduced_dtype(device: torch.device) -> torch.dtype:
    """Return what products of matrices are computed in: bfloat16, but float32 on a processor that is slower in it."""
    gains = device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if gains else torch.float32


def reduced_precision(device: torch.device) -> torch.autocast:
    """Return the context in which networks compute in the numbers of `reduced_dtype`."""
    dtype = reduced_dtype(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def best_device() -> torch.device:
    """Return the device that networks are trained on: a GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
