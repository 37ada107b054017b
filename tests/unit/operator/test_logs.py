"""What the operator logs tells no password."""

import io
import json
import logging

import pytest

from bullpen_operator import logs


@pytest.fixture
def stream():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_credentials_of_a_url_are_blotted_out_also_in_a_traceback(stream, log_format):
    logs.configure(log_format, "info", stream)
    log = logging.getLogger("bullpen.operator.test")
    try:
        int("redis://me:hunter2@redis:6379/0")
    except ValueError:
        log.exception("reconcile_broke", extra={"url": "redis://me:hunter2@redis:6379/0"})
    told = stream.getvalue()
    assert "hunter2" not in told
    assert "me:hunter2" not in told
    assert "ValueError" in told
    if log_format == "json":
        line = json.loads(told)
        assert (line["event"], line["level"]) == ("reconcile_broke", "error")
