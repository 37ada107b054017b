"""Plays all patterns with all settings, and writes results.json, the figure and the tables of docs/explanation/scaling.md.

Some minutes on two processors. ``--page`` writes figure and tables from the results that are there.
"""

import sys

from tests.bench.simulation import contest, report

if __name__ == "__main__":
    if "--page" not in sys.argv:
        report.save(contest.run())
    report.write()
    print(f"{report.RESULTS.name}, {report.FIGURE.name} and {report.PAGE.name} are written")
