"""Makes the shared strategies and the Keras oracle importable."""

import sys
from pathlib import Path

for folder in (Path(__file__).parents[1], Path(__file__).parents[1] / "frontend"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
