"""perf_analyzer, whose path is in SLUICE_PERF_ANALYZER: each way of making load, over each front door, to its report."""
import os
import re
import subprocess

from common import arguments, run

# Windows of so many requests, and any three of them are stable: that a run completes and counts what it did must not depend on how
# busy this machine is.
USUAL = ["--measurement-mode", "count_windows", "--measurement-request-count", "30", "-s", "1000000", "-r", "6", "--max-threads", "2"]
LOADS = {"concurrency": ["--concurrency-range", "1:3:2"], "request-rate": ["--request-rate-range", "20:40:20"]}


class Perf:
    def __init__(self, args):
        self.program = os.environ["SLUICE_PERF_ANALYZER"]
        self.doors = {"grpc": ["-i", "grpc", "-u", args.grpc], "http": ["-i", "http", "-u", args.http]}

    def measure(self, door, load, *more, model="simple"):
        command = [self.program, "-m", model, *self.doors[door], *LOADS[load], *USUAL, *more]
        done = subprocess.run(command, capture_output=True, text=True, timeout=80)
        said = done.stdout + done.stderr
        assert done.returncode == 0, f"`{' '.join(command[1:])}` ended with {done.returncode}: {said.strip().splitlines()[-1:]}"
        rates = [float(rate) for rate in re.findall(r"Throughput: ([0-9.]+) infer/sec", said)]
        assert len(rates) >= 2 and all(rate > 0 for rate in rates), f"no throughput: {said[-300:]}"
        assert "Server:" in said and re.search(r"Inference count: [1-9]", said), f"no counts of the server: {said[-300:]}"
        assert "Inferences/Second vs. Client" in said, said[-300:]

    def cases(self):
        runs = {f"perf-{load}-{door}": lambda door=door, load=load: self.measure(door, load) for load in LOADS for door in self.doors}
        runs |= {f"perf-{load}-stream": lambda load=load: self.measure("grpc", load, "--streaming") for load in LOADS}
        runs["perf-async-grpc"] = lambda: self.measure("grpc", "concurrency", "--async", "-b", "4")
        runs["perf-async-http"] = lambda: self.measure("http", "concurrency", "--async", "-b", "4")
        runs["perf-json-http"] = lambda: self.measure("http", "concurrency", "--input-tensor-format", "json", "--output-tensor-format", "json")
        runs["perf-string-grpc"] = lambda: self.measure("grpc", "concurrency", model="simple_string")
        runs["perf-gzip-grpc"] = lambda: self.measure("grpc", "concurrency", "--grpc-compression-algorithm", "gzip")
        runs["perf-variable-shape-grpc"] = lambda: self.measure("grpc", "concurrency", "--shape", "INPUT0:1000", model="identity_fp32")
        # Not --shared-memory system: this program wants the CUDA library for that too.
        return runs


if __name__ == "__main__":
    args = arguments()
    run(Perf(args).cases(), args.only)
