"""Services for the page, each in a process of its own: ``python -m tests.page.scenes SCENE PORT TOKEN``."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from asyncmgr import Manager, RunContext, Service, Settings, periodic_task
from asyncmgr._monitoring.server import serve_http
from asyncmgr.transports import open_transport
from tests.page.billing import billing, bring_about, past_of_crowd
from tests.page.proxy import PREFIX, proxy


class Reports(Manager):
    @periodic_task(spacing=1, run_immediately=True, scope="cluster")
    async def send(self, context: RunContext) -> None: ...


async def cluster(port: str, token: str) -> None:
    """Run one task that only one of three hosts runs."""
    async with AsyncExitStack() as stack:
        transport = await stack.enter_async_context(open_transport("memory://"))
        services = [
            Service(Reports(), host=f"eu-{number}", transport=transport, settings=Settings(seed=number))
            for number in (1, 2, 3)
        ]
        urls: list[str] = []
        serve_http(services[0], port, token=token, opened=urls.append)
        for service in services:
            await stack.enter_async_context(service)
        say(urls[0])
        await until_asked_to_stop()


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


async def mounted(port: str, token: str) -> None:
    """Run it in a FastAPI application, as people do: one line, under uvicorn, below a prefix that a proxy takes off."""
    import uvicorn
    from fastapi import FastAPI

    import asyncmgr

    async with open_transport("memory://") as transport, billing("eu-2", transport) as other:
        await bring_about(other, is_first=False)
        service = billing("eu-1", transport)

        @asynccontextmanager
        async def life(app: FastAPI) -> AsyncIterator[None]:
            async with service:
                await bring_about(service)
                yield

        app = FastAPI(lifespan=life)
        app.mount("/jobs", asyncmgr.web(service, token=token))
        config = uvicorn.Config(
            app,
            port=0,
            root_path=PREFIX,
            proxy_headers=True,
            forwarded_allow_ips="127.0.0.1",
            log_config=None,
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(0.02)
        to = server.servers[0].sockets[0].getsockname()[1]
        async with await proxy(int(port), to) as front:
            say(f"http://127.0.0.1:{front.sockets[0].getsockname()[1]}/")
            await serving


SCENES = {one.__name__: one for one in (three_hosts, cluster, crowd, hostile, mounted)}

if __name__ == "__main__":
    asyncio.run(SCENES[sys.argv[1]](sys.argv[2], sys.argv[3]))
