"""The account at the end of `make demo`, as it is written where there is no terminal."""

import io

from rich.console import Console

from studio.account import Row, table


def test_the_account_fits_into_80_columns() -> None:
    out = io.StringIO()
    rows = [Row("email-notifications", 12_000, 24_000, 12_000, 1_000, 100, 12_345.0, 67_890.0, 345.0, 999.0)]
    Console(file=out, width=80).print(table(rows))
    assert "…" not in out.getvalue()
    assert "12.3/67.9 s" in out.getvalue()
    assert all(heading in out.getvalue() for heading in ("enqueued", "completed", "retried", "dead"))
