"""Services for the page, each in a process of its own: ``python -m tests.page.scenes SCENE PORT TOKEN``."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack
from typing import Any

from asyncmgr import Manager, RunContext, Service, Settings, periodic_task
from asyncmgr._monitoring.server import HttpServer, read_address, serve_http
from asyncmgr.transports import open_transport
from tests.page.billing import billing, bring_about, past_of_crowd

RTL = "\N{RIGHT-TO-LEFT OVERRIDE}"


def say(url: str) -> None:
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()


async def until_asked_to_stop() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


async def three_hosts(port: str, token: str) -> None:
    """Run three hosts of one service, the first of which shows the page."""
    async with AsyncExitStack() as stack:
        transport = await stack.enter_async_context(open_transport("memory://"))
        services = [billing(f"eu-{number}", transport) for number in (1, 2, 3)]
        urls: list[str] = []
        serve_http(services[0], port, token=token, opened=urls.append)
        for service in services:
            await stack.enter_async_context(service)
            await bring_about(service, is_first=service is services[0])
        say(urls[0])
        await until_asked_to_stop()


class Crowd(Manager):
    """One thousand tasks."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.name = f"Crowd{number}"
        for count in range(100):
            self.add_periodic_task(self.work, name=f"work_{count:03}", spacing=20 + count % 17, jitter=5)

    async def work(self, context: RunContext) -> None:
        await asyncio.sleep(0.01)


async def crowd(port: str, token: str) -> None:
    """Run 1,000 tasks with an hour behind them."""
    service = Service(*map(Crowd, range(10)), name="crowd", host="eu-1", settings=Settings(seed=1))
    urls: list[str] = []
    serve_http(service, port, token=token, opened=urls.append)
    async with service:
        past_of_crowd(service)
        await asyncio.gather(*(task.trigger() for task in service.tasks))
        say(urls[0])
        await until_asked_to_stop()


class Hostile(Manager):
    name = f'<img src=x onerror="pwned=1">{RTL}lmth'

    @periodic_task(spacing=2, run_immediately=True)
    async def html(self, context: RunContext) -> None:
        context.progress(1, 2, "<script>pwned=1</script>")
        raise ValueError(f"<img src=x onerror=pwned=1>{RTL}gnp.exe\0\N{ZERO WIDTH SPACE}")

    @periodic_task(spacing=2, run_immediately=True)
    async def endless(self, context: RunContext) -> None:
        raise ValueError("10 kB </script><script>pwned=1</script> " * 250)

    @periodic_task(spacing=1, run_immediately=True, name="x" * 200)
    async def long(self, context: RunContext) -> None: ...


async def hostile(port: str, token: str) -> None:
    """Run tasks whose names and errors try to get out of their place."""
    service = Service(Hostile(), name="<b>shop</b>", host="<i>eu</i>", settings=Settings(seed=1))
    urls: list[str] = []
    serve_http(service, port, token=token, opened=urls.append)
    async with service:
        service.task(f"{Hostile.name}.{'x' * 200}").pause(for_=3600, note=f"<u>why</u>{RTL}")
        say(urls[0])
        await until_asked_to_stop()


Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


async def mounted(port: str, token: str) -> None:
    """Run it below a path of a FastAPI application, behind a proxy that takes another prefix off."""
    from fastapi import FastAPI

    import asyncmgr

    service = billing()
    shop = FastAPI()
    shop.mount("/jobs", asyncmgr.web(service, token=token))

    async def proxy(
        scope: Scope, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        if scope["type"] == "http":
            path = scope["path"].removeprefix("/shop")
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await shop(scope, receive, send)

    class Proxied:
        """What a server needs of the application."""

        def __init__(self) -> None:
            self.service = service
            self.guard = asyncmgr.web(service, token=token).guard
            self.streams = asyncmgr.web(service, token=token).streams

        __call__ = staticmethod(proxy)

    app: Any = Proxied()
    server = HttpServer(app, read_address(port), say)
    async with service:
        await bring_about(service)
        await server.open()
        await until_asked_to_stop()
        await server.close()


SCENES = {one.__name__: one for one in (three_hosts, crowd, hostile, mounted)}

if __name__ == "__main__":
    asyncio.run(SCENES[sys.argv[1]](sys.argv[2], sys.argv[3]))
