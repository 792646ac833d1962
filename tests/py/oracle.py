"""The placement problem as a mixed-integer program for HiGHS: how good is a plan at best?

Reads a file of JSON, one {"problem", "solution"} a line as policy::place writes them, and prints a line of JSON each: the value of the
plan as counted here, the bound of HiGHS started from it, the best plan HiGHS found, and what of the problem's rules the plan breaks.

    oracle.py FILE [SECONDS]
"""

import json
import sys
import time

import highspy
import numpy as np

SHORT_PRICE, STARVED_PRICE, SHORT_SHARE, LOAD_COST, IDLE_COST = 2.0, 5.0, 0.2, 1e-4, 1e-5


class Program:
    def __init__(self):
        self.solver = highspy.Highs()
        self.solver.setOptionValue("output_flag", False)
        self.count = 0
        self.start = []

    def column(self, cost, upper, start, whole=False):
        self.solver.addCol(cost, 0.0, upper, 0, np.array([], dtype=np.int32), np.array([], dtype=np.double))
        if whole:
            self.solver.changeColIntegrality(self.count, highspy.HighsVarType.kInteger)
        self.count += 1
        self.start.append(start)
        return self.count - 1

    def row(self, lower, upper, entries):
        columns = np.array([c for c, _ in entries], dtype=np.int32)
        values = np.array([v for _, v in entries], dtype=np.double)
        self.solver.addRow(lower, upper, len(entries), columns, values)


def judge(problem, solution, seconds):
    inf = highspy.kHighsInf
    devices, models, pairs = problem["devices"], problem["models"], problem["pairs"]
    rate = sum(m["rate"] for m in models)
    program = Program()
    x, f, y = [], [], []
    for pair, placed, flow in zip(pairs, solution["placed"], solution["flow"]):
        model = models[pair["model"]]
        share = pair["service_s"] / pair["utilisation_max"]
        load = 0.0 if pair["placed"] else (1 + pair["bytes"] / 1e9) * rate * LOAD_COST
        # A load is a placed pair that was not: y needs no column of its own.
        x.append(program.column(-load - rate * IDLE_COST, 1.0, float(placed), whole=True))
        f.append(program.column(model["weight"] * pair["accuracy"], inf, flow))
        program.row(-inf, 0.0, [(f[-1], 1.0), (x[-1], -min(model["rate"], 1 / share))])
        if pair["fixed"]:
            program.row(1.0, 1.0, [(x[-1], 1.0)])
    for k, model in enumerate(models):
        left = solution["unserved"][k]
        short = min(left, SHORT_SHARE * model["rate"])
        u1 = program.column(-SHORT_PRICE * model["weight"], SHORT_SHARE * model["rate"], short)
        u2 = program.column(-STARVED_PRICE * model["weight"], inf, left - short)
        mine = [j for j, pair in enumerate(pairs) if pair["model"] == k]
        program.row(model["rate"], model["rate"], [(f[j], 1.0) for j in mine] + [(u1, 1.0), (u2, 1.0)])
        for part, most in (("node", model["replicas_min"]), ("zone", min(model["replicas_min"], 2))):
            places = {}
            for j in mine:
                places.setdefault(devices[pairs[j]["device"]][part], []).append(j)
            if most > 1 or (most == 1 and part == "node"):
                there = []
                for group in places.values():
                    on = any(solution["placed"][j] for j in group)
                    there.append(program.column(0.0, 1.0, float(on), whole=True))
                    program.row(-inf, 0.0, [(there[-1], 1.0)] + [(x[j], -1.0) for j in group])
                program.row(min(most, len(places)), inf, [(t, 1.0) for t in there])
    for n, device in enumerate(devices):
        here = [j for j, pair in enumerate(pairs) if pair["device"] == n]
        program.row(-inf, 1.0, [(f[j], pairs[j]["service_s"] / pairs[j]["utilisation_max"]) for j in here])
        program.row(-inf, device["bytes"] / 1e9, [(x[j], pairs[j]["bytes"] / 1e9) for j in here])
        new = [j for j in here if not pairs[j]["placed"]]
        program.row(-inf, device["loads_max"], [(x[j], 1.0) for j in new])
        # The first load of a device may take as long as it takes.
        long = [j for j in new if pairs[j]["load_s"] <= device["load_s_max"]]
        if device["loads_max"] > 1:
            program.row(-inf, device["load_s_max"], [(x[j], pairs[j]["load_s"]) for j in long])
    new = [j for j, pair in enumerate(pairs) if not pair["placed"]]
    program.row(-inf, problem["loads_max"], [(x[j], 1.0) for j in new])

    solver = program.solver
    solver.changeObjectiveSense(highspy.ObjSense.kMaximize)
    lp = solver.getLp()
    start = np.array(program.start)
    value = float(np.dot(lp.col_cost_, start))
    broken = infeasible(lp, start)
    warm = highspy.HighsSolution()
    warm.col_value = program.start
    solver.setSolution(warm)
    solver.setOptionValue("time_limit", seconds)
    solver.setOptionValue("mip_rel_gap", 2e-3)
    began = time.monotonic()
    solver.run()
    info = solver.getInfo()
    return {"value": value, "bound": info.mip_dual_bound, "best": info.objective_function_value, "broken": broken,
            "seconds": round(time.monotonic() - began, 1)}


def infeasible(lp, values):
    """The most by which a plan is off a row, as a share of that row's greatest term."""
    matrix = lp.a_matrix_
    columns = matrix.format_ == highspy.MatrixFormat.kColwise
    sums, scale = np.zeros(lp.num_row_), np.ones(lp.num_row_)
    for outer in range(len(matrix.start_) - 1):
        for at in range(matrix.start_[outer], matrix.start_[outer + 1]):
            row, column = (matrix.index_[at], outer) if columns else (outer, matrix.index_[at])
            term = matrix.value_[at] * values[column]
            sums[row] += term
            scale[row] = max(scale[row], abs(term))
    over = np.maximum(sums - np.array(lp.row_upper_), np.array(lp.row_lower_) - sums)
    return float(np.max(over / scale))


def main():
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 60.0
    with open(sys.argv[1], encoding="utf-8") as file:
        for line in file:
            both = json.loads(line)
            print(json.dumps(judge(both["problem"], both["solution"], seconds)), flush=True)


main()
