"""What the client scripts share: arguments, one line per case, tensors of every type.

Each script is run as `SCRIPT --grpc HOST:PORT --http HOST:PORT [--repo DIR] [--shm]` against a server of the models of
make_repository.py that nobody else uses meanwhile. It prints `case<TAB>ok` or `case<TAB>FAIL reason` per case and ends with 1 if any failed. Cases of the same
name make the same call in every client: they are the rows of docs/compatibility.md.
"""
import argparse
import os
import signal
import threading
import time
import traceback

import ml_dtypes
import numpy as np

CASE_SECONDS = 90
SCRIPT_SECONDS = 900

ODD_BYTES = [b"", b"a\0b", b"\xff\xfe\xfd", "grüße".encode(), b"\0"]

# The extremes of each type, and what a wrong width, sign or byte order would change.
TENSORS = {
    "BOOL": np.array([[True, False, True, True, False]]),
    "UINT8": np.array([[0, 1, 127, 128, 255]], np.uint8),
    "UINT16": np.array([[0, 1, 0x1234, 0x8000, 0xFFFF]], np.uint16),
    "UINT32": np.array([[0, 1, 0x12345678, 2**31, 2**32 - 1]], np.uint32),
    "UINT64": np.array([[0, 1, 0x123456789ABCDEF0, 2**63, 2**64 - 1]], np.uint64),
    "INT8": np.array([[0, -1, 17, -128, 127]], np.int8),
    "INT16": np.array([[0, -1, 0x1234, -(2**15), 2**15 - 1]], np.int16),
    "INT32": np.array([[0, -1, 0x12345678, -(2**31), 2**31 - 1]], np.int32),
    "INT64": np.array([[0, -1, 0x123456789ABCDEF0, -(2**63), 2**63 - 1]], np.int64),
    "FP16": np.array([[0, -0.0, 1.5, 65504, 6e-8]], np.float16),
    "BF16": np.array([[0, -0.0, 1.5, 3e38, 1e-38]], ml_dtypes.bfloat16),
    "FP32": np.array([[0, -0.0, 1.5, 3.4e38, 1e-45]], np.float32),
    "FP64": np.array([[0, -0.0, 1.5, 1.7e308, 5e-324]], np.float64),
    "BYTES": np.array([ODD_BYTES], dtype=object),
}

# The field of InferTensorContents that carries each type. FP16 and BF16 have none.
CONTENTS = {
    "BOOL": "bool_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents", "FP32": "fp32_contents",
    "FP64": "fp64_contents", "BYTES": "bytes_contents",
}


def arguments(**more):
    parser = argparse.ArgumentParser()
    parser.add_argument("--grpc", required=True, metavar="HOST:PORT")
    parser.add_argument("--http", required=True, metavar="HOST:PORT")
    parser.add_argument("--repo", metavar="DIR")
    parser.add_argument("--shm", action="store_true", help="the server runs with --allow-client-shm on this host")
    parser.add_argument("--only", metavar="CASE", help="run only the cases whose name contains this")
    for name, options in more.items():
        parser.add_argument(f"--{name}", **options)
    return parser.parse_args()


def run(cases, only=None):
    """Runs each of `{name: function}`, and ends the process."""
    watchdog = threading.Timer(SCRIPT_SECONDS, os._exit, [1])  # for a case that no alarm can interrupt
    watchdog.daemon = True
    watchdog.start()
    signal.signal(signal.SIGALRM, too_long)
    failed = False
    for name, case in cases.items():
        if only and only not in name:
            continue
        signal.alarm(CASE_SECONDS)
        try:
            case()
            print(f"{name}\tok", flush=True)
        except Exception as error:
            failed = True
            print(f"{name}\tFAIL {reason(error)}", flush=True)
        finally:
            signal.alarm(0)
    os._exit(1 if failed else 0)  # whatever threads a client still has


def too_long(*_):
    raise TimeoutError(f"not done after {CASE_SECONDS} s")


def reason(error):
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/tests/py/" in frame.filename]
    at = f"{os.path.basename(ours[-1].filename)}:{ours[-1].lineno}: " if ours else ""
    return at + " ".join(f"{type(error).__name__}: {error}".split())[:400]


def methods(suite):
    """Of an object, the methods `case_some_name` as `{"some-name": method}`, in the order of the class."""
    names = [name for cls in reversed(type(suite).__mro__) for name in vars(cls) if name.startswith("case_")]
    return {name.removeprefix("case_").replace("_", "-"): getattr(suite, name) for name in dict.fromkeys(names)}


def same(got, want, what=""):
    """Equal in type, shape and every bit."""
    assert got is not None, f"{what}: no such output"
    assert got.dtype == want.dtype and got.shape == want.shape, f"{what}: {got.dtype}{got.shape}, expected {want.dtype}{want.shape}"
    equal = (got == want).all() if want.dtype == object else got.tobytes() == want.tobytes()
    assert equal, f"{what}: {got.tolist()}, expected {want.tolist()}"[:300]


def holds(text, *needles):
    for needle in needles:
        assert needle in text, f"`{needle}` is not in `{text}`"


def until(what, is_so, seconds=10):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, f"{what} within {seconds} s"
        time.sleep(0.05)
