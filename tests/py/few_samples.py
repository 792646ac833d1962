"""Writes samples for a model: made-up ones by what ONNX Runtime says of its inputs, or the first of others.

few_samples.py made-up MODEL OUT.npz       8 samples; fails for a model that ONNX Runtime does not load or that takes no plain numbers
few_samples.py first COUNT IN.npz OUT.npz
"""
import sys

import numpy as np

TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16, "tensor(int64)": np.int64,
         "tensor(int32)": np.int32, "tensor(int8)": np.int8, "tensor(uint8)": np.uint8, "tensor(bool)": np.bool_}


def made_up(model, out, count=8, length=64):
    import onnxruntime
    rng = np.random.default_rng(7)
    arrays = {}
    for tensor in onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).get_inputs():
        sizes = [size if isinstance(size, int) and size > 0 else None for size in tensor.shape]
        # Rows where the first dimension is open or 1; whole inputs where it is not.
        rows = bool(sizes) and sizes[0] in (None, 1)
        shape = [count] + [size or length for size in (sizes[1:] if rows else sizes)]
        if not rows and len(sizes) > 1 and sizes[1] is None:
            shape[2] = 1  # the rows of a recurrent state
        kind = TYPES[tensor.type]
        floats = np.issubdtype(kind, np.floating)
        arrays[tensor.name] = rng.standard_normal(shape).astype(kind) if floats else rng.integers(0, 2, shape).astype(kind)
    if "sr" in arrays:
        arrays["sr"][:] = 16000  # Silero's rate of samples
    np.savez(out, **arrays)


if sys.argv[1] == "made-up":
    made_up(sys.argv[2], sys.argv[3])
else:
    count, source, out = int(sys.argv[2]), sys.argv[3], sys.argv[4]
    np.savez(out, **{name: array[:count] for name, array in np.load(source).items()})
