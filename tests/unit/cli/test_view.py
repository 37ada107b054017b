"""What local mode shows."""

import io

from rich.console import Console

from bullpen_cli.local.journal import Line
from bullpen_cli.local.view import LiveView, Picture, PlainView, QueueRow, draw_table, draw_why, summary


def picture(*rows):
    return Picture(redis="Redis 7", rows=rows, seconds=1)


def drawn(row):
    console = Console(width=120, file=io.StringIO(), color_system=None)
    console.print(draw_table([row]), draw_why(row, 120))
    return console.file.getvalue()


def test_a_row_shows_jobs_by_state_workers_and_why():
    row = QueueRow("emails", 3, 2, 1, 7, 5, 4, workers=2, starting=1, stopping=1, wanted=3, most=6, reason="20 jobs")
    text = drawn(row)
    assert "●●◐○··" in text
    assert "3/6" in text
    assert "20 jobs" in text
    assert text.splitlines()[3].split()[:7] == ["emails", "3", "2", "1", "7", "5", "4"]


def test_what_cannot_be_read_is_a_question_mark_and_trouble_takes_the_place_of_the_reason():
    text = drawn(QueueRow("emails", reason="fine", trouble="exit 1: no module shop"))
    assert "?" in text
    assert "exit 1: no module shop" in text
    assert "fine" not in text


def test_text_of_jobs_is_never_markup():
    assert "[red]x[/nothing]" in drawn(QueueRow("emails", reason="[red]x[/nothing]"))


def test_plain_lines_tell_changes_of_workers_at_once_and_counts_now_and_then():
    now = 0.0
    out = io.StringIO()
    view = PlainView(out, clock=lambda: now)
    row = QueueRow("emails", 1, 0, 0, wanted=1, most=2, reason="1 job waits")
    view.show(picture(row))
    view.show(picture(row))
    assert out.getvalue().splitlines() == [
        "emails: 1 of at most 2 workers: 1 job waits",
        "emails: waiting 1, delayed 0, active 0, completed 0, retried 0, failed 0, workers 0",
    ]
    view.show(picture(QueueRow("emails", 0, 0, 0, completed=1, wanted=0, most=2, reason="nothing to do")))
    assert out.getvalue().splitlines()[2:] == ["emails: 0 of at most 2 workers: nothing to do"]
    now = 60.0
    view.show(picture(QueueRow("emails", 0, 0, 0, completed=1, wanted=0, most=2, reason="nothing to do")))
    assert out.getvalue().splitlines()[3:] == [
        "emails: waiting 0, delayed 0, active 0, completed 1, retried 0, failed 0, workers 0"
    ]


def test_plain_lines_leave_out_single_jobs_that_went_well():
    out = io.StringIO()
    view = PlainView(out)
    view.hear(Line("emails", "welcome completed", job=True, routine=True))
    view.hear(Line("emails", "job failed", level="error", job=True))
    view.hear(Line("emails", "hello from a handler"))
    assert out.getvalue().splitlines() == ["emails: job failed", "emails: hello from a handler"]


def test_the_live_view_draws_the_last_picture_and_prints_what_is_said():
    console = Console(width=100, file=io.StringIO(), force_terminal=True, color_system=None)
    view = LiveView(console)
    view.say("[bold]hello[/bold]")
    view.hear(Line("emails", "job failed: no such card", level="error", job=True))
    view.show(picture(QueueRow("emails", 1, 0, 0, wanted=1, most=2, reason="1 job waits")))
    view.close()
    text = console.file.getvalue()
    assert "[bold]hello[/bold]" in text
    assert "1 job waits" in text


def test_the_summary_names_only_queues_with_something_left():
    assert summary({"emails": "2 waiting", "sms": ""}) == ["emails: 2 waiting left in Redis"]
