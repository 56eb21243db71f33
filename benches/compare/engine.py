"""Drives `compare` (benches/src/bin/compare.rs): one timed run of the engine per call."""

import os
import pathlib
import statistics
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("CPIFT_COMPARE", str(ROOT / "target" / "release" / "compare"))


class Engine:
    """`compare OPERATION …` kept running; calling it runs the operation once and returns seconds."""

    def __init__(self, *arguments, threads=2):
        environment = dict(os.environ, THREADS=str(threads))
        command = [BINARY, *map(str, arguments)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    def __call__(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def alternate(runs, rounds):
    """Calls each of `runs` (name → function returning seconds) once per round; medians by name.

    Alternating gives both sides the same share of whatever else the machine does. The first two
    rounds warm up and do not count.
    """
    times = {name: [] for name in runs}
    for round_number in range(rounds + 2):
        for name, run in runs.items():
            seconds = run()
            if round_number >= 2:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}
