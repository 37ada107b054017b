"""The ledger: one entry for each payment, whatever happens around it."""

import sqlite3
from decimal import Decimal
from pathlib import Path

SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    entry INTEGER PRIMARY KEY,
    payment_id TEXT NOT NULL UNIQUE,
    charge TEXT NOT NULL UNIQUE,
    amount TEXT NOT NULL,
    fence INTEGER NOT NULL
) STRICT
"""


class Ledger:
    """A SQLite file that several worker processes write to. Blocking: call it from a thread."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        with self._connect() as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(SCHEMA)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=10)

    def find(self, payment_id: str) -> tuple[int, str] | None:
        """Give the payment's entry and charge, or None."""
        with self._connect() as connection:
            row = connection.execute("SELECT entry, charge FROM entries WHERE payment_id = ?", (payment_id,)).fetchone()
        return None if row is None else (int(row[0]), str(row[1]))

    def record(self, payment_id: str, charge: str, amount: Decimal, fence: int) -> int:
        """Write the payment's entry if there is none, and give the one there is."""
        with self._connect() as connection:
            connection.execute(
                "INSERT INTO entries (payment_id, charge, amount, fence) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (payment_id) DO NOTHING",
                (payment_id, charge, str(amount), fence),
            )
        found = self.find(payment_id)
        assert found is not None
        return found[0]

    def totals(self) -> tuple[int, Decimal]:
        """Count the entries and add up their amounts."""
        with self._connect() as connection:
            amounts = [Decimal(row[0]) for row in connection.execute("SELECT amount FROM entries")]
        return len(amounts), sum(amounts, Decimal(0))
