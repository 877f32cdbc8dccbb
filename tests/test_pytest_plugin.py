"""The pytest plugin, used as its users use it: by one line in a conftest of their own."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest
import time_machine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncmgr.testing import VirtualTime

IMPORTS = """\
import asyncio
import contextlib
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
import time_machine

from asyncmgr.testing import VirtualTimeLoop


def is_virtual():
    return isinstance(asyncio.get_running_loop(), VirtualTimeLoop)


def is_travelling():
    return time_machine.escape_hatch.is_travelling()


"""
# The inner run finds modules imported that it would like to rewrite; every other warning is an error in it.
WARNINGS = ("-W", "error", "-W", "ignore::pytest.PytestAssertRewriteWarning")
OPTIONS = ("--strict-markers", *WARNINGS, "-p", "no:hypothesispytest")  # that plugin takes a second each time
BOTH_MODES = pytest.mark.parametrize("mode", ["auto", "strict"])


@pytest.fixture(autouse=True)
def _wall_given_back(pytester: pytest.Pytester) -> Iterator[None]:
    """No inner run leaves the wall clock moved."""
    before = len(time_machine.traveller_stack)
    yield
    assert len(time_machine.traveller_stack) == before


def project(
    pytester: pytest.Pytester, tests: str, *, mode: str = "auto", ini: str = "", conftest: str = ""
) -> None:
    """Lay out a project that opts in."""
    if "fixture_loop_scope" not in ini:
        ini += "\nasyncio_default_fixture_loop_scope = function"
    pytester.makeini(f"[pytest]\nasyncio_mode = {mode}\n{ini}")
    pytester.makeconftest('pytest_plugins = ["asyncmgr.testing.plugin"]\n' + dedent(conftest))
    pytester.makepyfile(IMPORTS + dedent(tests))


def run(pytester: pytest.Pytester, *options: str, **outcomes: int) -> pytest.RunResult:
    """Run the project's tests and compare what became of them."""
    result = pytester.runpytest_inprocess(*OPTIONS, *options)
    result.assert_outcomes(**outcomes)
    return result


async def test_fixture_in_this_very_suite(virtual_time: VirtualTime) -> None:
    """Time passes when told to, exactly, and the wall clock with it."""
    assert virtual_time.now() == virtual_time.start == datetime(2024, 1, 1, tzinfo=UTC)
    await virtual_time.advance(90)
    assert virtual_time.elapsed == 90
    assert datetime.now(UTC) == virtual_time.now() == virtual_time.start + timedelta(seconds=90)


@BOTH_MODES
def test_only_tests_that_ask_are_virtual(pytester: pytest.Pytester, mode: str) -> None:
    """Tests with the fixture run on a virtual loop; the others keep the loop that they had without us."""
    project(
        pytester,
        """
        @pytest.mark.asyncio
        async def test_virtual(virtual_time):
            assert is_virtual()
            await asyncio.sleep(86_400)
            assert virtual_time.elapsed == 86_400

        @pytest.mark.asyncio
        async def test_real():
            assert not is_travelling()
            ordinary = asyncio.new_event_loop()
            assert type(asyncio.get_running_loop()) is type(ordinary)
            ordinary.close()

        def test_plain():
            assert not is_travelling()
        """,
        mode=mode,
    )
    run(pytester, passed=3)


def test_names_of_tests_stay(pytester: pytest.Pytester) -> None:
    """The choice of a loop shows in no test's id, so that `-k` and lists of known failures keep working."""
    project(
        pytester,
        """
        async def test_virtual(virtual_time): pass
        async def test_real(): pass
        @pytest.mark.parametrize("n", [1])
        async def test_both(virtual_time, n): pass
        """,
    )
    result = run(pytester, "--collect-only", "-q")
    result.stdout.re_match_lines([r".*::test_virtual$", r".*::test_real$", r".*::test_both\[1\]$"])


@BOTH_MODES
def test_async_fixtures_share_the_loop(pytester: pytest.Pytester, mode: str) -> None:
    """What an async fixture starts lives on the test's loop, in its time, from set-up to tear-down."""
    project(
        pytester,
        """
        class Service:
            async def __aenter__(self):
                self.loop = asyncio.get_running_loop()
                self.runs = []
                self.task = asyncio.create_task(self.tick())
                return self

            async def __aexit__(self, *error):
                assert asyncio.get_running_loop() is self.loop
                self.task.cancel()
                await asyncio.sleep(30)
                assert datetime.now(UTC) == datetime(2024, 1, 1, 2, 0, 30, tzinfo=UTC)

            async def tick(self):
                while True:
                    await asyncio.sleep(1800)
                    self.runs.append(datetime.now(UTC))

        @pytest_asyncio.fixture
        async def service():
            async with Service() as service:
                yield service

        @pytest.fixture
        def made_by_plain_code(virtual_time):
            return datetime.now(UTC)

        @pytest.mark.asyncio
        async def test(service, virtual_time, made_by_plain_code):
            assert asyncio.get_running_loop() is service.loop
            assert made_by_plain_code == virtual_time.start
            await virtual_time.advance(7200)
            assert service.runs == [virtual_time.start + timedelta(minutes=30 * n) for n in (1, 2, 3, 4)]
        """,
        mode=mode,
    )
    run(pytester, passed=1)


def test_asking_by_way_of_another_fixture(pytester: pytest.Pytester) -> None:
    """A fixture that uses `virtual_time`, an autouse one and `usefixtures` ask for it as well."""
    project(
        pytester,
        """
        @pytest.fixture
        def indirect(virtual_time):
            return virtual_time

        async def test_indirect(indirect):
            assert is_virtual()

        @pytest.mark.usefixtures("virtual_time")
        async def test_usefixtures():
            assert is_virtual()

        class TestAutouse:
            @pytest.fixture(autouse=True)
            def _always(self, virtual_time):
                pass

            async def test_method(self):
                assert is_virtual()
        """,
    )
    run(pytester, passed=3)


@BOTH_MODES
def test_marker_sets_the_start(pytester: pytest.Pytester, mode: str) -> None:
    """The start comes from the marker, as text or datetime, else from the ini; the marker alone asks too."""
    project(
        pytester,
        """
        DAY = datetime(2026, 3, 29, tzinfo=UTC)

        @pytest.mark.asyncio
        @pytest.mark.virtual_time(start="2026-03-29T02:00:00+02:00")
        async def test_text(virtual_time):
            assert virtual_time.start == virtual_time.now() == datetime.now(UTC) == DAY

        @pytest.mark.asyncio
        @pytest.mark.virtual_time(start=DAY)
        async def test_datetime(virtual_time):
            assert virtual_time.start == DAY

        @pytest.mark.asyncio
        @pytest.mark.virtual_time(start=DAY)
        async def test_marker_alone():
            assert is_virtual() and datetime.now(UTC) == DAY

        @pytest.mark.asyncio
        @pytest.mark.virtual_time
        async def test_ini(virtual_time):
            assert virtual_time.start == datetime(2030, 1, 1, tzinfo=UTC)
        """,
        mode=mode,
        ini="virtual_time_start = 2030-01-01T00:00:00+00:00",
    )
    run(pytester, passed=4)


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("start='2026-03-29T00:00:00'", "no instant with a time zone"),
        ("start='tomorrow'", "no instant with a time zone"),
        ("start=1711670400", "no instant with a time zone"),
        ("begin='2026-03-29T00:00:00+00:00'", "accepts only the keyword 'start'"),
        ("'2026-03-29T00:00:00+00:00'", "accepts only the keyword 'start'"),
    ],
)
def test_wrong_marker_is_an_error(pytester: pytest.Pytester, marker: str, message: str) -> None:
    """A start that is no instant, or another argument, stops the collection and names the test."""
    project(
        pytester,
        f"""
        @pytest.mark.virtual_time({marker})
        async def test_it(virtual_time): pass
        """,
    )
    result = run(pytester, errors=1)
    result.stdout.fnmatch_lines([f"*::test_it: *{message}*"])


def test_each_test_begins_anew(pytester: pytest.Pytester) -> None:
    """Every test has its own loop and begins at the start, in a class and on loops of a wider scope too."""
    tests = """
        class TestTwo:
            async def test_a(self, virtual_time):
                await self.check(virtual_time)

            async def test_b(self, virtual_time):
                await self.check(virtual_time)

            async def check(self, virtual_time):
                assert virtual_time.now() == datetime(2024, 1, 1, tzinfo=UTC)
                await virtual_time.advance(60)
                assert virtual_time.elapsed == 60

        async def test_real():
            assert not is_virtual()
        """
    project(pytester, tests)
    run(pytester, passed=3)
    scope = "asyncio_default_fixture_loop_scope = session\nasyncio_default_test_loop_scope = session"
    project(pytester, tests, ini=scope)
    run(pytester, passed=3)


def test_fixtures_of_a_wider_scope(pytester: pytest.Pytester) -> None:
    """Async fixtures of the session are made anew for virtual tests: none runs on a foreign loop."""
    project(
        pytester,
        """
        @pytest.fixture(scope="session")
        async def loop_of_session():
            yield asyncio.get_running_loop()

        async def test_real(loop_of_session):
            assert loop_of_session is asyncio.get_running_loop()

        async def test_virtual(virtual_time, loop_of_session):
            assert loop_of_session is asyncio.get_running_loop()

        async def test_real_again(loop_of_session):
            assert loop_of_session is asyncio.get_running_loop()
        """,
        ini="asyncio_default_fixture_loop_scope = session\nasyncio_default_test_loop_scope = session",
    )
    run(pytester, passed=3)


def test_two_loops_in_one_test_are_told_apart(pytester: pytest.Pytester) -> None:
    """A test whose loop has another scope than its fixtures' is told so, and waits on no wrong clock."""
    project(
        pytester,
        """
        @pytest.mark.asyncio(loop_scope="module")
        async def test(virtual_time):
            await virtual_time.advance(1)
        """,
    )
    result = run(pytester, failed=1)
    result.stdout.fnmatch_lines(["*virtual_time belongs to another loop*"])


BAREST = {
    "fixture": "async def test_it(virtual_time):",
    "mark": "@pytest.mark.virtual_time\nasync def test_it():",
    "both": "@pytest.mark.virtual_time\nasync def test_it(virtual_time):",
    "parametrized": "@pytest.mark.parametrize('n', [1])\nasync def test_it(n, virtual_time):",
    "indirect": "@pytest.fixture\ndef hours(virtual_time): return 2\nasync def test_it(hours):",
    "class": "class TestIt:\n  pytestmark = pytest.mark.virtual_time\n  async def test_it(self):",
}


@pytest.mark.parametrize("loaded", ["conftest", "option"])
def test_strict_mode_needs_no_second_mark(pytester: pytest.Pytester, loaded: str) -> None:
    """In pytest-asyncio's default mode the fixture or our mark is enough, however the plugin is loaded (50)."""
    for name, head in BAREST.items():
        pytester.makepyfile(
            **{
                f"test_{name}": f"{IMPORTS}\n{head}\n        await asyncio.sleep(86_400); assert is_virtual()\n"
            }
        )
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    pytester.makeconftest('pytest_plugins = ["asyncmgr.testing.plugin"]' if loaded == "conftest" else "")
    run(pytester, *(["-p", "asyncmgr.testing.plugin"] if loaded == "option" else []), passed=len(BAREST))


PLAIN_TESTS = """
        def test_plain(virtual_time): pass

        @pytest.mark.virtual_time
        def test_marked(): pass
        """


@BOTH_MODES
def test_plain_tests_are_told_what_to_use(pytester: pytest.Pytester, mode: str) -> None:
    """A test that is not async is refused by name, not run in real time; the cure is said (50)."""
    project(pytester, PLAIN_TESTS, mode=mode)
    pytester.makepyfile(
        test_module="import pytest\npytestmark = pytest.mark.virtual_time\n"
        "def test_plain(): pass\nasync def test_async(): pass\n"
    )
    result = run(pytester, errors=2, passed=2)
    for name in ("plain", "marked"):
        result.stdout.fnmatch_lines([f"*::test_{name}: virtual_time needs an async test*run_virtual*"])


@pytest.mark.parametrize(
    "head",
    [
        "@pytest.mark.anyio\n@pytest.mark.virtual_time\nasync def test_it(): pass",
        "@pytest.mark.anyio\nasync def test_it(virtual_time): pass",
        "@pytest.mark.virtual_time\nasync def test_it(anyio_backend): pass",
    ],
)
def test_tests_of_anyio_are_told_what_to_use(pytester: pytest.Pytester, head: str) -> None:
    """A test of anyio's plugin, which chooses loops by itself, is refused, with the way that works (50)."""
    project(pytester, head, mode="strict")
    result = pytester.runpytest_inprocess(*OPTIONS, "-p", "no:trio")
    found = result.parseoutcomes()
    # Whether it is refused once or once for each backend depends on the order in which plugins were installed.
    assert found["errors"] >= 1
    assert not {"passed", "failed"} & set(found)
    result.stdout.fnmatch_lines(["*::test_it*: virtual_time has a loop of pytest-asyncio's*anyio_backend*"])


def test_the_documented_way_for_anyio(pytester: pytest.Pytester) -> None:
    """By anyio's own fixture its tests run in virtual time, and `run_for` serves them; see docs/how-to/testing.md."""
    project(
        pytester,
        """
        from asyncmgr import Manager, Service, periodic_task
        from asyncmgr.testing import run_for

        class Counts(Manager):
            n = 0
            @periodic_task(spacing=3600)
            async def count(self, context): self.n += 1

        @pytest.fixture
        def anyio_backend():
            return "asyncio", {"loop_factory": VirtualTimeLoop}

        @pytest.mark.anyio
        async def test_a_day():
            counts = Counts()
            await run_for(Service(counts), hours=24)
            assert counts.n == 24
        """,
        mode="strict",
    )
    run(pytester, passed=1)


def test_asking_late_is_told(pytester: pytest.Pytester) -> None:
    """A test that asks while it runs has its loop already, and is told where to ask."""
    project(
        pytester,
        """
        @pytest.fixture
        def late(request):
            return request.getfixturevalue("virtual_time")

        async def test_late_by_a_fixture(late): pass
        """,
    )
    result = run(pytester, errors=1)
    result.stdout.fnmatch_lines(["*virtual_time was asked for after the test's loop had been chosen*"])


def test_own_travel_of_a_test(pytester: pytest.Pytester) -> None:
    """Decorators, fixtures and markers of time-machine work in virtual tests, and leave nothing behind."""
    project(
        pytester,
        """
        DAY = datetime(2000, 2, 29, tzinfo=UTC)

        @time_machine.travel(DAY, tick=False)
        async def test_decorated(virtual_time):
            await asyncio.sleep(60)
            assert datetime.now(UTC) == DAY

        @pytest_asyncio.fixture
        async def frozen(virtual_time):
            with time_machine.travel(DAY, tick=False):
                yield

        async def test_async_fixture(frozen):
            await asyncio.sleep(60)
            assert datetime.now(UTC) == DAY

        async def test_fixture_that_outlives_the_loop(time_machine, virtual_time):
            time_machine.move_to(DAY, tick=False)
            await asyncio.sleep(60)
            assert datetime.now(UTC) == DAY

        def test_nothing_is_left():
            assert not is_travelling()
        """,
    )
    run(pytester, passed=4)


def test_deadlock_fails_the_test_and_cleans_up(pytester: pytest.Pytester) -> None:
    """A test that waits for ever fails with the reason; its fixtures are torn down, the next test runs."""
    project(
        pytester,
        """
        @pytest_asyncio.fixture
        async def resource(virtual_time):
            yield
            await asyncio.sleep(60)
            print("torn down at", virtual_time.elapsed)

        async def test_stuck(resource):
            await asyncio.Event().wait()

        async def test_next(virtual_time):
            await virtual_time.advance(1)
        """,
    )
    result = run(pytester, passed=1, failed=1)
    result.stdout.fnmatch_lines(["*DeadlockError: nothing is scheduled*", "torn down at 60.*"])


def test_other_loop_factories_are_respected(pytester: pytest.Pytester) -> None:
    """A project that chooses loops by the same hook keeps its choice for tests in real time."""
    project(
        pytester,
        """
        async def test_virtual(virtual_time):
            assert is_virtual()

        async def test_real():
            assert type(asyncio.get_running_loop()).__name__ == "OwnLoop"
        """,
        conftest="""
        import asyncio

        class OwnLoop(asyncio.SelectorEventLoop): pass

        def pytest_asyncio_loop_factories(config, item):
            return {"own": OwnLoop}
        """,
    )
    run(pytester, passed=2)


def test_package_alone_brings_no_plugin(pytester: pytest.Pytester) -> None:
    """Without the line in a conftest there is no fixture: installing asyncmgr changes nobody's tests."""
    project(pytester, "def test_it(virtual_time): pass")
    pytester.makeconftest("")
    run(pytester, errors=1).stdout.fnmatch_lines(["*fixture 'virtual_time' not found*"])


def test_missing_pytest_asyncio_names_the_extra() -> None:
    """Without pytest-asyncio the import fails with the command that installs it."""
    code = "import sys; sys.modules['pytest_asyncio'] = None; import asyncmgr.testing.plugin"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: asyncmgr.testing.plugin needs pytest-asyncio" in done.stderr
    assert "asyncmgr[testing]" in done.stderr
