"""Model files that must be refused, or that run in a way a server has to survive."""
import numpy as np
import onnx
from onnx import TensorProto as T, helper

from graph import IR_VERSION, OPSET, text_model
from test_models import add_sub

SECRET = np.arange(4, dtype="<f4").tobytes()


def write(bad):
    bad.mkdir(parents=True)
    whole = add_sub().SerializeToString()
    (bad / "truncated.onnx").write_bytes(whole[:len(whole) // 2])
    onnx.save(unsupported_op(), bad / "unsupported_op.onnx")

    # Readable, so that a loader which follows the path succeeds, and the test sees it.
    (bad.parent / "secret.bin").write_bytes(SECRET)
    onnx.save(external("../secret.bin"), bad / "external_outside.onnx")
    onnx.save(external("/etc/os-release"), bad / "external_absolute.onnx")
    (bad / "external_ok").mkdir()
    (bad / "external_ok/weights.bin").write_bytes(SECRET)
    onnx.save(external("weights.bin"), bad / "external_ok/model.onnx")

    onnx.save(hang(), bad / "hang.onnx")
    onnx.save(memory_bomb(), bad / "memory_bomb.onnx")
    onnx.save(crash(), bad / "crash.onnx")
    onnx.save(crash_at_run(), bad / "crash_at_run.onnx")


def unsupported_op():
    return text_model("""
        unsupported_op (float[batch, 4] x) => (float[batch, 4] y) {
            between = example.com.NoSuchOperator(x)
            y = NoSuchOperator(between)
        }""", opsets='"" : 17, "example.com" : 1')


def external(location):
    """y = x + the first sixteen bytes of `location`, read as four floats."""
    model = text_model("""
        external (float[batch, 4] x) => (float[batch, 4] y) { y = Add(x, weights) }""")
    weights = T(name="weights", data_type=T.FLOAT, dims=[4], data_location=T.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", str(len(SECRET)))):
        weights.external_data.add(key=key, value=value)
    model.graph.initializer.append(weights)
    return model


def hang():
    """Valid, and answers after some billion years."""
    return text_model("""
        hang (float[batch, 4] x) => (float[batch, 4] y) {
            y = Loop(turns, , x) <body = turn (int64 i, bool go, float[b, 4] a) => (bool go_on, float[b, 4] c) {
                go_on = Identity(go)
                c = Neg(a)
            }>
        }""", {"turns": np.int64(2**62)})


def memory_bomb():
    """Valid, and wants 4 TiB per row while it runs."""
    return text_model("""
        memory_bomb (float[batch, 4] x) => (float[total] y) {
            shape = Shape<start = 0, end = 1>(x)
            large = Mul(shape, elements)
            y = ConstantOfShape(large)
        }""", {"elements": np.array([2**40], np.int64)})


def crash():
    """A decision tree so deep that ONNX Runtime, which walks it recursively while loading, runs off its stack: SIGSEGV."""
    depth = 200_000
    branches, leaves = list(range(depth)), list(range(depth, 2 * depth + 1))
    count = len(branches) + len(leaves)
    no_child = [0] * len(leaves)
    node = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1,
        nodes_treeids=[0] * count, nodes_nodeids=branches + leaves, nodes_featureids=[0] * count,
        nodes_modes=["BRANCH_LT"] * len(branches) + ["LEAF"] * len(leaves), nodes_values=[0.0] * count,
        nodes_truenodeids=branches[1:] + leaves[-1:] + no_child, nodes_falsenodeids=leaves[:-1] + no_child,
        target_treeids=[0] * len(leaves), target_nodeids=leaves, target_ids=[0] * len(leaves),
        target_weights=[1.0] * len(leaves))
    graph = helper.make_graph([node], "crash", [helper.make_tensor_value_info("x", T.FLOAT, ["batch", 4])],
                              [helper.make_tensor_value_info("y", T.FLOAT, ["batch", 1])])
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, producer_name="sluice", ir_version=IR_VERSION)


def crash_at_run():
    """Loads, and answers for x = 0. Where a value of x is 1, the smallest integer is divided by -1: SIGFPE on x86 (not on Arm).

    Where a value is 2, it is a division by zero, which ONNX Runtime reports.
    """
    return text_model("""
        crash_at_run (float[batch, 4] x) => (int64[batch, 4] y) {
            n = Cast<to = 7>(x)
            divisor = Sub(n, two)
            y = Div(least, divisor)
        }""", {"two": np.int64(2), "least": np.int64(-2**63)})
