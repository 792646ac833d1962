"""Builds ONNX graphs node by node, or from ONNX's text form."""
import numpy as np
import onnx
from onnx import helper, numpy_helper, parser

OPSET = 17
IR_VERSION = 8


class Graph:
    def __init__(self):
        self.nodes, self.weights = [], {}

    def weight(self, name, array):
        self.weights[name] = np.ascontiguousarray(array)
        return name

    def op(self, kind, *inputs, name=None, **attributes):
        output = name or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=f"n_{output}", **attributes))
        return output

    def model(self, name, inputs, outputs, doc=""):
        graph = helper.make_graph(self.nodes, name, [helper.make_tensor_value_info(*i) for i in inputs],
                                  [helper.make_tensor_value_info(*o) for o in outputs],
                                  [numpy_helper.from_array(array, key) for key, array in self.weights.items()])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="sluice",
                                  doc_string=doc, ir_version=IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        return model


def text_model(text, weights=None, opsets='"" : 17'):
    """From `name (inputs) => (outputs) { nodes }`. Weights are added as initializers by name."""
    model = parser.parse_model(f'<ir_version: {IR_VERSION}, opset_import: [{opsets}], producer_name: "sluice">\n{text}')
    for name, array in (weights or {}).items():
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
    return model


def save(model, repository, name):
    """As version 1 of a model in a Triton repository."""
    folder = repository / name / "1"
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
