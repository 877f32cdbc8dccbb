"""``asyncmgr call``."""

from __future__ import annotations

import json

import pytest

from asyncmgr._cli.commands.call import read_value
from tests.cli.conftest import Elsewhere, Invoke
from tests.cli.remote import Compute, Zones


@pytest.fixture
def compute(elsewhere: Elsewhere) -> Compute:
    """One host of the service ``call``."""
    manager = Compute("call")
    elsewhere.start(manager, Zones(), host="n1")
    return manager


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("20", 20),
        ('"20"', "20"),
        ("true", True),
        ("null", None),
        ('["a", {"b": 1.5}]', ["a", {"b": 1.5}]),
        ("hello", "hello"),
        ("1.2.3", "1.2.3"),
        ("True", "True"),
        ("NaN", "NaN"),
        ("", ""),
        ("a=b", "a=b"),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_a_value_is_json_or_else_text(text: str, value: object) -> None:
    """There is one rule for all values."""
    assert read_value(text) == value


def test_the_result_is_data(compute: Compute, invoke: Invoke) -> None:
    """A result goes to stdout as JSON."""
    result = invoke("call", "call", "resize", "volume=v", "gib=20", "prio=3")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {"name": "v", "gib": 20}


def test_a_text_is_written_as_it_is(compute: Compute, invoke: Invoke) -> None:
    """A text needs no quotes for people and shells, and has them for programs."""
    assert invoke("call", "call", "echo", "value=hello").stdout == "hello\n"
    assert invoke("call", "call", "echo", "value=hello", "--json").stdout == '"hello"\n'
    assert invoke("call", "call", "echo", 'value="20"', "--json").stdout == '"20"\n'


def test_one_host_version_and_namespace_can_be_called(compute: Compute, invoke: Invoke) -> None:
    """The options narrow the call."""
    assert invoke("call", "call", "count", "--namespace", "zones", "--at", "n1").stdout == "3\n"
    assert invoke("call", "call", "echo", "value=1", "--version", "1.3").stdout == "1\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["resize", "volume=none"], "Error: RemoteError: ValueError: no such volume"),
        (["resize"], "Error: InvalidArguments: Compute.resize: 'volume'"),
        (["resize", "volume=5"], "Error: InvalidArguments: Compute.resize: 'volume'"),
        (["grow"], "Error: NoSuchMethod: the interface without a namespace has no method 'grow'"),
        (["resize", "volume=v", "--version", "2.0"], "Error: UnsupportedVersion: "),
        (["wait", "--timeout", "50ms"], "Error: RpcTimeout: "),
        (["wait", "--at", "n9"], "Error: NoResponders: call at n9: wait()"),
    ],
)
def test_an_error_is_one_line_with_its_kind(
    compute: Compute, invoke: Invoke, words: list[str], said: str
) -> None:
    """Without a result the exit code is 1 and stderr says why."""
    result = invoke("call", "call", *words)
    assert (result.exit_code, result.stdout) == (1, "")
    # The service, which is in this process here, may log what its methods raise, before and after.
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert line.startswith(said)


def test_nobody_there_names_the_cure(elsewhere: Elsewhere, invoke: Invoke) -> None:
    """Where no host answers, the message says where was looked and how to find out who is there."""
    said = invoke("call", "absent", "x").stderr
    assert f"Looked for at {elsewhere.url}; 'asyncmgr hosts' lists who announces itself there" in said


@pytest.mark.parametrize("way", ["--cast", "--fanout"])
def test_what_is_not_waited_for_writes_nothing(
    compute: Compute, elsewhere: Elsewhere, invoke: Invoke, way: str
) -> None:
    """A cast and a fanout arrive and have no result."""
    result = invoke("call", "call", "tell", way)
    assert (result.exit_code, result.output) == (0, "")
    elsewhere.run(compute.told.wait())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["resize", "volume"], "'volume' is no argument; write name=value"),
        (["resize", "=1"], "'=1' is no argument; write name=value"),
        (["resize", "a=1", "a=2"], "'a' is given twice; keep one"),
        (["resize", "--version", "1"], "'1' is no version; write two whole numbers"),
        (["resize", "--timeout", "0"], "'0' leaves no time; write more than 0"),
        (["resize", "--cast", "--fanout"], "--cast is for one host, --fanout for all; keep one of them"),
        (["resize", "--fanout", "--at", "n1"], "--fanout calls all hosts; leave --at out"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(invoke: Invoke, words: list[str], said: str) -> None:
    """Nothing is sent where the words make no sense."""
    result = invoke("call", "call", *words)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())


@pytest.mark.parametrize("words", [["call", "a", "b"], ["hosts"], ["info", "a"]])
def test_memory_reaches_nobody(invoke: Invoke, words: list[str]) -> None:
    """The default transport ends at the process; the message says what to write."""
    result = invoke(*words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "memory:// reaches nothing outside of this process" in result.stderr
    assert "--transport nats://host:4222" in result.stderr
    assert invoke(*words, "--transport", "Memory://x").exit_code == 1


def test_a_password_in_the_url_is_not_shown(invoke: Invoke) -> None:
    """What cannot be reached is named without its secrets."""
    result = invoke("hosts", "--transport", "nats://me:hunter2@127.0.0.1:1")
    assert result.exit_code == 1
    assert "127.0.0.1:1" in result.stderr
    assert "hunter2" not in result.stderr
