"""Compares a variant made by `int8-qdq` with what ONNX Runtime's own quantizer makes of the same model and samples.

quantizer.py MODEL SAMPLES.npz OURS.onnx OPERATORS

Scales and zero points of every value that both quantize must be the same to the last bit, and so must the integers of weights.
Says how many of each were compared.
"""
import pathlib
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

model, samples, ours, operators = sys.argv[1:5]

# The number of threads changes the last bit of a sum: one, as our calibration has it.
Options = onnxruntime.SessionOptions


def one_thread():
    options = Options()
    options.intra_op_num_threads = 1
    return options


onnxruntime.SessionOptions = one_thread
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static  # noqa: E402


class Samples(CalibrationDataReader):
    def __init__(self):
        arrays = dict(np.load(samples))
        arrays.pop("labels", None)
        count = len(next(iter(arrays.values())))
        self.rows = ({name: array[i:i + 1] for name, array in arrays.items()} for i in range(count))

    def get_next(self):
        return next(self.rows, None)


theirs = pathlib.Path(tempfile.mkdtemp()) / "theirs.onnx"
quantize_static(model, theirs, Samples(), quant_format=QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8, op_types_to_quantize=operators.split(","), extra_options={"MatMulConstBOnly": True})


def read(path):
    graph = onnx.load(path).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    values = {node.input[0]: [constants[i].ravel() for i in node.input[1:]] for node in graph.node if node.op_type == "QuantizeLinear"}
    weights = {node.input[0]: [constants[i].ravel() for i in node.input] for node in graph.node
               if node.op_type == "DequantizeLinear" and node.input[0] in constants}
    return values, weights


for what, mine, others in zip(("values", "weights"), read(ours), read(theirs)):
    both = sorted(mine.keys() & others.keys())
    differ = [name for name in both if any(not np.array_equal(a, b) for a, b in zip(mine[name], others[name]))]
    assert not differ, f"{len(differ)} of {len(both)} {what} differ, such as {differ[0]}: {mine[differ[0]]} {others[differ[0]]}"
    print(f"{len(both)} {what}")
