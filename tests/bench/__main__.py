"""`make bench`: measures, prints what was to be shown beside what was found, exits 1 where a target was missed."""

import argparse
import subprocess
import sys
import tempfile

from tests.bench import enqueue, footprint, idle, promptness, reaction, report, throughput

PARTS = ("imports", "idle", "promptness", "enqueue", "throughput", "reaction", "footprint")


def main() -> int:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(prog='make bench BENCH="…"', description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="which parts to run; none: all of them")
    parser.add_argument("--repetitions", type=int, default=5, help="paired repetitions of each comparison")
    parser.add_argument("--jobs", type=int, default=20_000, help="jobs in each run of the throughput part")
    arguments = parser.parse_args()
    parts = arguments.parts or PARTS
    if {"enqueue", "throughput", "reaction"} & set(parts) and not (
        throughput.NODE / "node_modules" / "bullmq"
    ).exists():
        print("installing Node's bullmq …", flush=True)
        # Not `npm ci`: it wants optional packages of other platforms in the lock.
        command = ["npm", "install", "--no-save", "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run([*command, "--silent"], check=True, cwd=throughput.NODE)
    found = report.Report()
    with tempfile.TemporaryFile() as log:
        try:
            for part in parts:
                print(f"measuring: {part} …", flush=True)
                if part == "imports":
                    idle.measure_imports(found, log)
                elif part == "idle":
                    idle.measure_worker(found, log)
                elif part == "promptness":
                    promptness.measure(found, log)
                elif part == "enqueue":
                    enqueue.measure(found, arguments.repetitions, log)
                elif part == "reaction":
                    reaction.measure(found, log)
                elif part == "footprint":
                    footprint.measure(found, log)
                else:
                    throughput.measure(found, arguments.repetitions, arguments.jobs, log)
        except (TimeoutError, subprocess.SubprocessError):
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace")[-4000:])
            raise
    found.print(f"Bullpen, measured: {idle.machine()}")
    return 1 if found.missed else 0


if __name__ == "__main__":
    sys.exit(main())
