"""The command line as a shell sees it: real processes, their output and exit codes."""

import os
import subprocess
import sys
from collections.abc import Mapping

import pytest

import bullpen
from bullpen_cli import __main__ as command_line


def run(*arguments: str, env: Mapping[str, str] | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bullpen_cli", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "TERM": "dumb", "COLUMNS": "100", **(env or {})},
    )


def test_help_names_each_command_and_imports_none() -> None:
    program = (
        "import sys; from bullpen_cli.__main__ import main; sys.argv = ['bullpen', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'bullpen', 'redis', 'yaml', 'bullpen_worker', 'structlog', 'prometheus_client', 'jsonschema'}\n"
        "print('imported:', sorted(heavy & sys.modules.keys()))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    for name, entry in command_line.COMMANDS.items():
        assert name in ended.stdout
        assert entry.summary.split(":")[0].split()[0] in ended.stdout
    assert ended.stdout.rstrip().endswith("imported: []")


@pytest.mark.parametrize("name", command_line.COMMANDS)
def test_each_command_has_help(name: str) -> None:
    ended = run(name, "--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"Usage: bullpen {name}" in ended.stdout


@pytest.mark.parametrize("name", ["worker", "enqueue"])
def test_help_has_examples_line_by_line(name: str) -> None:
    ended = run(name, "--help")
    assert any(line.strip().startswith(f"bullpen {name} ") for line in ended.stdout.splitlines())


def test_help_of_worker_names_the_environment() -> None:
    ended = run("worker", "--help", env={"COLUMNS": "200"})
    for variable in ("HANDLERS", "QUEUE", "CONCURRENCY", "PROCESSES", "GRACE", "PROBES", "LOG_FORMAT", "REDIS_URL"):
        assert f"BULLPEN_{variable}" in ended.stdout


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version(option: str) -> None:
    ended = run(option)
    assert (ended.returncode, ended.stdout) == (0, f"bullpen {bullpen.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["wroker"], "No such command 'wroker'. Did you mean 'worker'?"),
        (["worker", "--queue", "emails"], "Missing option '--handlers'"),
        (["enqueue", "emails"], "Missing argument 'name'"),
        (["enqueue", "emails", "welcome", "{}", "--dealy", "5m"], "No such option: --dealy"),
        (["enqueue", "emails", "welcome", "{'a': 1}"], "the payload is not JSON: Expecting property name"),
        (["enqueue", "emails", "welcome", "[1]"], "the payload is no JSON object"),
        (["enqueue", "emails", "welcome", "--delay", "5"], "--delay: '5' is not a duration"),
        (["enqueue", "emails", "welcome", "--delay", "2027-01-01T08:00:00"], "names no time zone"),
        (["enqueue", "emails", "welcome", "--delay", "2027-01-01"], "write 2027-01-01T00:00:00Z for UTC"),
        (["enqueue", "emails", "welcome", "--wait", "soon"], "--wait: 'soon' is not a duration"),
        (["enqueue", "emails", "welcome", "{}", "--data-file", "x.json"], "not both"),
        (["enqueue", "emails", "welcome", "--data-file", "no/such.json"], "cannot read no/such.json: No such file"),
        (["worker", "--queue", "q", "--handlers", "m", "--grace", "30"], "--grace: '30' is not a duration"),
        (["worker", "--queue", "q", "--handlers", "m", "--probes", "8080"], "--probes: '8080' is not an address"),
        (
            ["worker", "--queue", "q", "--handlers", "m", "--concurrency", "0"],
            "Input should be greater than or equal to 1",
        ),
        (["worker", "--queue", "q", "--handlers", "m", "--log-format", "xml"], "'xml' is not one of 'json', 'console'"),
        (["enqueue", "a:b", "welcome"], "'a:b' is no queue name: it is text without a colon"),
        (["worker", "--queue", "a:b", "--handlers", "m"], "'a:b' is no queue name"),
        (["pause", "a:b"], "'a:b' is no queue name"),
        (["resume", ""], "'' is no queue name"),
        (["doctor", "--queue", "a:b"], "'a:b' is no queue name"),
        (["enqueue", "emails", "two\nlines"], "a job's name is text of 1 to 255 printable characters"),
        (["enqueue", "emails", "welcome", "--redis", "http://example.org"], "--redis: not a Redis URL"),
        (["worker", "--queue", "q", "--handlers", "m", "--redis", "foo"], "--redis: not a Redis URL"),
        (["pause", "emails", "--redis", "foo"], "--redis: not a Redis URL"),
        (["doctor", "--redis", "foo"], "--redis: not a Redis URL"),
        (["dev", "-f", "queues.yaml", "--redis", "foo"], "--redis: not a Redis URL"),
        (["enqueue", "emails", "welcome", "--prefix", "a b"], "--prefix: 'a b' is not allowed"),
        (["worker", "--queue", "q", "--handlers", "m", "--prefix", ""], "--prefix: '' is not allowed"),
        (["dev", "-f", "queues.yaml", "--prefix", "a b"], "--prefix: 'a b' is not allowed"),
    ],
)
def test_wrong_usage_is_said_without_a_traceback_and_exits_with_2(arguments: list[str], message: str) -> None:
    ended = run(*arguments, env={"COLUMNS": "300"})
    assert (ended.returncode, ended.stdout) == (2, "")
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_without_a_command_it_shows_help_and_exits_with_2() -> None:
    ended = run()
    assert ended.returncode == 2
    assert "Usage: bullpen" in ended.stdout


def test_errors_of_bullpen_are_one_line_and_exit_with_1() -> None:
    ended = run("enqueue", "emails", "welcome", env={"BULLPEN_REDIS_URL": "http://example.org"})
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("error: ")
    assert "not a Redis URL" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_no_colours_where_there_is_no_terminal() -> None:
    ended = run(
        "enqueue", "emails", "welcome", env={"TERM": "xterm-256color", "BULLPEN_REDIS_URL": "http://example.org"}
    )
    assert "\x1b[" not in ended.stderr


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colours_on_a_terminal_unless_told_not_to(no_color: str, coloured: bool) -> None:
    leader, follower = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "bullpen_cli", "enqueue", "emails", "welcome"],
        stderr=follower,
        stdout=subprocess.PIPE,
        env={
            **os.environ,
            "TERM": "xterm-256color",
            "NO_COLOR": no_color,
            "BULLPEN_REDIS_URL": "http://example.org",
        },
    )
    os.close(follower)
    try:
        process.communicate(timeout=60)
        assert (b"\x1b[1;31m" in os.read(leader, 4096)) is coloured
    finally:
        os.close(leader)


@pytest.mark.parametrize(
    ("shell", "mark"),
    [("bash", "complete -o default -F"), ("zsh", "#compdef bullpen"), ("fish", "complete --command bullpen")],
)
def test_completion_script(shell: str, mark: str) -> None:
    ended = run(env={"_BULLPEN_COMPLETE": f"source_{shell}"})
    assert ended.returncode == 0
    assert mark in ended.stdout


def test_completion_knows_commands_and_options_of_commands_not_imported_yet() -> None:
    commands = run(env={"_BULLPEN_COMPLETE": "complete_bash", "COMP_WORDS": "bullpen en", "COMP_CWORD": "1"})
    assert commands.stdout.split() == ["enqueue"]
    words = {"COMP_WORDS": "bullpen worker --log-f", "COMP_CWORD": "2"}
    options = run(env={"_BULLPEN_COMPLETE": "complete_bash", **words})
    assert options.stdout.split() == ["--log-format"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:s3cret@h:1/0", "redis://u:***@h:1/0"),
        ("redis://:s3@cret@h", "redis://:***@h"),
        ("redis://h:1", "redis://h:1"),
        ("unix://:s3cret@/tmp/x.sock", "unix://:***@/tmp/x.sock"),
    ],
)
def test_local_mode_shows_no_password(url: str, shown: str) -> None:
    from bullpen_cli import dev

    assert dev.hide_password(url) == shown


@pytest.mark.parametrize(
    ("words", "stdin", "said"),
    [
        (("-",), "[" * 5_000, "nested too deeply"),
        (("-",), '{"a": ' + "9" * 5_000 + "}", "thousands of digits"),
        (("-",), '{"a": \udcff}', "is not UTF-8"),
        (("{}", "--wait", "0s"), "", "--wait: must be longer than nothing"),
    ],
)
def test_what_cannot_be_enqueued_is_a_wrong_call(words: tuple[str, ...], stdin: str, said: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "bullpen_cli", "enqueue", "emails", "greet", *words],
        input=stdin.encode(errors="surrogateescape"),
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, "TERM": "dumb", "COLUMNS": "200", "BULLPEN_REDIS_URL": "redis://127.0.0.1:1"},
    )
    told = " ".join(ended.stderr.decode().replace("\u2502", " ").split())
    assert (ended.returncode, said in told) == (2, True), told
