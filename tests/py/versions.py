"""Makes another version of add_sub: `versions.py MODEL OUT swapped` gives back difference and sum for each other, `same` says the same."""
import sys

import onnx

model, out, how = sys.argv[1:4]
model = onnx.load(model)
model.doc_string = "another version"  # other bytes in any case, so another artifact
if how == "swapped":
    for node in model.graph.node:
        node.op_type = {"Add": "Sub", "Sub": "Add"}.get(node.op_type, node.op_type)
onnx.save(model, out)
