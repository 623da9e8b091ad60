"""Makes `held` importable here and, since the path travels with it, in the processes that `Remote` starts."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
