"""Whether a device computes in bf16 natively. Elsewhere it is emulated, and slower than fp32."""

from __future__ import annotations

import torch


def has_bf16(device: str) -> bool:
    """Whether `device` ("cpu" or "cuda") multiplies bf16 matrices with instructions of its own."""
    if device == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    capability = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capability.get("avx512_bf16") or capability.get("amx_bf16") or capability.get("bf16"))
