"""Small models with known answers, for tests."""
import numpy as np
import onnx

from graph import save, text_model

# What the Open Inference Protocol calls FP32, FP16, INT64, UINT8, BOOL, BYTES.
IDENTITIES = {"fp32": "float", "fp16": "float16", "int64": "int64", "uint8": "uint8", "bool": "bool", "string": "string"}

# Turns of `slow`'s loop: about 100 ms for one row on one core, more for more rows.
SLOW_TURNS = 30_000


def write(test):
    models = {"add_sub": add_sub(), "no_batch": no_batch(), "slow": slow()}
    models |= {f"identity_{name}": identity(name, kind) for name, kind in IDENTITIES.items()}
    for name, model in models.items():
        onnx.checker.check_model(model, full_check=True)
        save(model, test, name)


def add_sub():
    return text_model("""
        add_sub (float[batch, 16] INPUT0, float[batch, 16] INPUT1) => (float[batch, 16] OUTPUT0, float[batch, 16] OUTPUT1) {
            OUTPUT0 = Add(INPUT0, INPUT1)
            OUTPUT1 = Sub(INPUT0, INPUT1)
        }""")


def identity(name, kind):
    return text_model(f"""
        identity_{name} ({kind}[batch, n] INPUT0) => ({kind}[batch, n] OUTPUT0) {{ OUTPUT0 = Identity(INPUT0) }}""")


def no_batch():
    """A fixed shape whose first dimension is no batch: OUTPUT0 = 2 INPUT0."""
    return text_model("""
        no_batch (float[2, 3] INPUT0) => (float[2, 3] OUTPUT0) { OUTPUT0 = Add(INPUT0, INPUT0) }""")


def slow():
    """Each turn moves every row one place to the right, by a matrix product: OUTPUT0 = INPUT0, turned round as a whole."""
    size = 256
    assert SLOW_TURNS % size == 48  # the answer: np.roll(INPUT0, 48, axis=1)
    return text_model("""
        slow (float[batch, 256] INPUT0) => (float[batch, 256] OUTPUT0) {
            OUTPUT0 = Loop(turns, , INPUT0) <body = turn (int64 i, bool go, float[b, 256] x) => (bool go_on, float[b, 256] y) {
                go_on = Identity(go)
                y = MatMul(x, shift)
            }>
        }""", {"turns": np.int64(SLOW_TURNS), "shift": np.roll(np.eye(size, dtype=np.float32), 1, axis=1)})
