"""Makes another version of add_sub: `versions.py MODEL OUT shifted` adds 0 to 15 to the elements of its rows, `same` says the same."""
import sys

import numpy as np
import onnx
from onnx import helper, numpy_helper

model, out, how = sys.argv[1:4]
model = onnx.load(model)
model.doc_string = "another version"  # other bytes in any case, so another artifact
if how == "shifted":
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.arange(16, dtype=np.float32), "shift"))
    for output in graph.output:
        for node in graph.node:
            node.output[:] = [f"{name}_before" if name == output.name else name for name in node.output]
        graph.node.append(helper.make_node("Add", [f"{output.name}_before", "shift"], [output.name]))
onnx.save(model, out)
