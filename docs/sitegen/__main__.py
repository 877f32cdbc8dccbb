"""Builds the site: ``python -m sitegen DIRECTORY``."""

from __future__ import annotations

import sys
from pathlib import Path

from sitegen.build import build

if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1])))
