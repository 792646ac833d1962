"""The mean cosine of two models' answers over the same samples must not be less than a floor.

cosine.py SAMPLES.npz A.onnx B.onnx FLOOR
"""
import sys

import numpy as np
import onnxruntime

samples, a, b, floor = sys.argv[1:5]
data = dict(np.load(samples))
sessions = [onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]) for file in (a, b)]
inputs = {tensor.name: tensor.shape for tensor in sessions[0].get_inputs()}
cosines = []
for i in range(len(next(iter(data.values())))):
    feed = {name: data[name][i] if data[name].ndim == len(shape) + 1 else data[name][i:i + 1] for name, shape in inputs.items()}
    for x, y in zip(*(session.run(None, feed) for session in sessions)):
        if np.issubdtype(x.dtype, np.floating):
            x, y = x.ravel().astype(float), y.ravel().astype(float)
            norm = np.linalg.norm(x) * np.linalg.norm(y)
            cosines.append(x @ y / norm if norm else float(np.array_equal(x, y)))
assert np.mean(cosines) >= float(floor), f"{b}: {np.mean(cosines)}"
