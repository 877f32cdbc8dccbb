"""``python -m asyncmgr`` is the command ``asyncmgr``."""

from __future__ import annotations

from asyncmgr._cli import main

if __name__ == "__main__":
    main()
