"""The placement problem as a mixed-integer program for HiGHS: how good is a plan at best?

Reads a file of JSON, one {"problem", "solution"} a line as policy::place writes them, and prints a line of JSON each: the value of the
plan as counted here, the bound of HiGHS started from it, the best plan HiGHS found and the rows it answers, and by how much the plan
breaks the rule it breaks most. `bound` is null where HiGHS has none after SECONDS.

    oracle.py FILE [SECONDS]
"""

import json
import os
import sys
import time

import highspy
import numpy as np

SHORT_PRICE, STARVED_PRICE, SHORT_SHARE, LOAD_COST, IDLE_COST = 2.0, 5.0, 0.2, 1e-4, 1e-5


class Rows:
    """Rows of a program, gathered in pieces of many entries each."""

    def __init__(self):
        self.pieces, self.lower, self.upper = [], [], []

    def add(self, lower, upper, *entries):
        """As many rows as `upper` is long; each of `entries` is (which of them, column, value) as arrays."""
        first = sum(map(len, self.upper))
        upper = np.atleast_1d(np.asarray(upper, dtype=float))
        self.upper.append(upper)
        self.lower.append(np.broadcast_to(np.asarray(lower, dtype=float), upper.shape))
        for rows, columns, values in entries:
            rows = np.asarray(rows)
            self.pieces.append((rows + first, np.asarray(columns), np.broadcast_to(np.asarray(values, dtype=float), rows.shape)))

    def arrays(self):
        rows, columns, values = (np.concatenate(part) for part in zip(*self.pieces))
        return rows, columns, values, np.concatenate(self.lower), np.concatenate(self.upper)


class Program:
    """The program, and the plan as a point of it. Flows are shares of their model's rate and values shares of `worth`, so that all
    numbers are near one."""

    def __init__(self, problem, solution):
        inf = highspy.kHighsInf
        of = lambda things, name, kind=float: np.array([thing[name] for thing in problem[things]], dtype=kind)
        model, device = of("pairs", "model", int), of("pairs", "device", int)
        rates, weights = of("models", "rate"), of("models", "weight")
        there, fixed = of("pairs", "placed", bool), of("pairs", "fixed", bool)
        share, size, load_s = of("pairs", "service_s") / of("pairs", "utilisation_max"), of("pairs", "bytes") / 1e9, of("pairs", "load_s")
        pairs, models, devices = len(model), len(rates), len(problem["devices"])
        rate, scale = rates.sum(), np.maximum(rates, 1e-9)
        self.worth = max(float(rates @ weights), 1e-9)

        # Columns: x, f, u1, u2, then what tells distinct nodes and zones apart.
        x, f, u1, u2 = np.split(np.arange(2 * pairs + 2 * models), [pairs, 2 * pairs, 2 * pairs + models])
        load = np.where(there, 0.0, (1 + size) * rate * LOAD_COST)
        worth = weights * rates
        cost = [-load - rate * IDLE_COST, worth[model] * of("pairs", "accuracy"), -SHORT_PRICE * worth, -STARVED_PRICE * worth]
        lower = [fixed, np.zeros(pairs + 2 * models)]
        upper = [np.ones(pairs), np.ones(pairs), np.full(models, SHORT_SHARE), np.ones(models)]
        placed = np.array(solution["placed"], dtype=float)
        unserved = np.array(solution["unserved"]) / scale
        short = np.minimum(unserved, SHORT_SHARE)
        start = [placed, np.array(solution["flow"]) / scale[model], short, unserved - short]

        rows, every = Rows(), np.arange(pairs)
        # The most that can flow is the whole rate, or what the device alone can do.
        most = np.minimum(1.0, 1 / (share * scale[model]))
        rows.add(-inf, np.zeros(pairs), (every, f, 1.0), (every, x, -most))
        each = np.arange(models)
        rows.add(1.0, np.ones(models), (model, f, 1.0), (each, u1, 1.0), (each, u2, 1.0))
        rows.add(-inf, np.ones(devices), (device, f, share * rates[model]))
        # What was too much before may stay.
        before = np.bincount(device, size * (there | fixed), devices)
        rows.add(-inf, np.maximum(of("devices", "bytes") / 1e9, before), (device, x, size))
        new = ~there
        # A load is a placed pair that was not: y needs no column of its own.
        rows.add(-inf, float(problem["loads_max"]), (np.zeros(new.sum(), int), x[new], 1.0))
        rows.add(-inf, of("devices", "loads_max"), (device[new], x[new], 1.0))
        # The first load of a device may take as long as it takes, and is then the only one. JSON writes infinity as null.
        longest = np.array([inf if d["load_s_max"] is None else d["load_s_max"] for d in problem["devices"]])
        rows.add(-inf, longest, (device[new], x[new], np.minimum(load_s, longest[device])[new]))

        count = 2 * pairs + 2 * models
        for part, least in (("node", np.inf), ("zone", 2)):
            place = of("devices", part, int)[device]
            for k, wanted in enumerate(of("models", "replicas_min", int)):
                mine = np.flatnonzero(model == k)
                places, at = np.unique(place[mine], return_inverse=True)
                wanted = min(wanted, least, len(places))
                if wanted == 1 and part == "node":
                    rows.add(1.0, inf, (np.zeros(len(mine), int), x[mine], 1.0))
                elif wanted > 1:
                    # Whole whenever x is, so it need not be told to be.
                    here = count + np.arange(len(places))
                    count += len(places)
                    lower.append(np.zeros(len(places)))
                    upper.append(np.ones(len(places)))
                    cost.append(np.zeros(len(places)))
                    start.append(np.minimum(np.bincount(at, placed[mine], len(places)), 1.0))
                    rows.add(-inf, np.zeros(len(places)), (np.arange(len(places)), here, 1.0), (at, x[mine], -1.0))
                    rows.add(wanted, inf, (np.zeros(len(places), int), here, 1.0))

        self.cost, self.start = np.concatenate(cost) / self.worth, np.concatenate(start)
        self.lower, self.upper, self.whole = np.concatenate(lower).astype(float), np.concatenate(upper), pairs
        self.rows, self.rates, self.of_pair = rows.arrays(), rates, model

    def value(self):
        return float(self.cost @ self.start) * self.worth

    def served(self, point):
        """Rows a second that are answered at `point`; null where there is none."""
        return float(self.rates[self.of_pair] @ np.array(point[self.whole:2 * self.whole])) if len(point) else None

    def broken(self):
        """The most by which the plan is off a row or a bound, as a share of that row's greatest term."""
        rows, columns, values, lower, upper = self.rows
        terms = values * self.start[columns]
        sums, scale = np.bincount(rows, terms, len(lower)), np.ones(len(lower))
        np.maximum.at(scale, rows, np.abs(terms))
        over = np.maximum(sums - upper, lower - sums) / scale
        return float(max(over.max(), (self.start - self.upper).max(), (self.lower - self.start).max()))

    def model(self):
        rows, columns, values, lower, upper = self.rows
        order = np.lexsort((rows, columns))
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = len(self.cost), len(lower)
        lp.sense_ = highspy.ObjSense.kMaximize
        lp.col_cost_, lp.col_lower_, lp.col_upper_ = self.cost, self.lower, self.upper
        lp.row_lower_, lp.row_upper_ = lower, upper
        lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        lp.a_matrix_.start_ = np.concatenate([[0], np.cumsum(np.bincount(columns, minlength=len(self.cost)))]).astype(np.int32)
        lp.a_matrix_.index_ = rows[order].astype(np.int32)
        lp.a_matrix_.value_ = values[order]
        kinds = highspy.HighsVarType
        lp.integrality_ = [kinds.kInteger] * self.whole + [kinds.kContinuous] * (len(self.cost) - self.whole)
        return lp


def judge(problem, solution, seconds):
    began = time.monotonic()
    program = Program(problem, solution)
    solver = highspy.Highs()
    for name, value in (("output_flag", False), ("threads", 1), ("time_limit", seconds), ("mip_rel_gap", 2e-3)):
        solver.setOptionValue(name, value)
    solver.passModel(program.model())
    warm = highspy.HighsSolution()
    warm.col_value = list(program.start)
    warm.value_valid = True
    solver.setSolution(warm)
    solver.run()
    info = solver.getInfo()
    told = lambda number: number * program.worth if abs(number) < 1e20 else None
    return {"value": program.value(), "bound": told(info.mip_dual_bound), "best": told(info.objective_function_value),
            "served": program.served(solver.getSolution().col_value), "broken": program.broken(), "seconds": round(time.monotonic() - began, 1)}


def main():
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 60.0
    # HiGHS greets on standard output, whatever its options: that goes where its errors go.
    with os.fdopen(os.dup(1), "w") as answers, open(sys.argv[1], encoding="utf-8") as file:
        os.dup2(2, 1)
        for line in file:
            both = json.loads(line)
            print(json.dumps(judge(both["problem"], both["solution"], seconds)), file=answers, flush=True)


main()
