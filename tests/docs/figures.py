"""Puts what ``make bench`` printed into docs/explanation/performance.md: ``make bench | tee bench.txt; python -m tests.docs.figures bench.txt``."""

import re
import sys
from pathlib import Path

from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "explanation" / "performance.md"
_ROW = re.compile(r"^[│|] *(?P<what>\S.*?) *[│|] *(?P<measured>.*?) *[│|] *(?P<target>.*?) *[│|]")


def filled(page: str, output: str) -> str:
    """Give the page with the figures of the output; a line that the output has not keeps what it had."""
    rows = {row["what"]: row for line in output.splitlines() if (row := _ROW.match(line)) and row["what"] != "what"}
    before, marker, rest = page.partition("<!-- FIGURES")
    table, end, after = rest.partition("<!-- END OF FIGURES -->")
    lines = []
    for line in table.splitlines():
        row = _ROW.match(line)
        found = rows.get(row["what"]) if row else None
        lines.append(f"| {found['what']} | {found['measured']} | {found['target']} |" if found else line)
    machine = next((line.strip() for line in output.splitlines() if line.startswith("Bullpen, measured:")), "")
    text = "\n".join(lines)
    if machine:
        intro = r"^(In the words of `make bench`.*?run at a time\.).*$"
        text = re.sub(intro, rf"\1 {machine}", text, flags=re.MULTILINE)
    return f"{before}{marker}{text}\n{end}{after}"


if __name__ == "__main__":
    PAGE.write_text(
        filled(PAGE.read_text(encoding="utf-8"), Path(sys.argv[1]).read_text(encoding="utf-8")), encoding="utf-8"
    )
