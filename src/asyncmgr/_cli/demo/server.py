"""``python -m asyncmgr._cli.demo.server``: a NATS server that ends when its standard input is closed.

Writes its URL to stdout. It has a process of its own, so that the server ends and its files go even if the
demonstration is killed.
"""

from __future__ import annotations

import signal
import sys

from asyncmgr.testing.nats import NatsServer, NatsServerError


def main() -> None:
    """Serve until the standard input ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with NatsServer() as server:
            sys.stdout.write(f"{server.url}\n")
            sys.stdout.flush()
            sys.stdin.buffer.read()
    except NatsServerError as exc:
        sys.exit(str(exc))


if __name__ == "__main__":
    main()
