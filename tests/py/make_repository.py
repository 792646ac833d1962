"""Writes a model repository for client tests: `make_repository.py DIR`. Small models with known answers; the same bytes each time.

What each is for stands beside it in `clients/triton_cases.py`, which knows the answers.
"""
import pathlib
import sys

import numpy as np
import onnx

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "xtask/models"))
from graph import save, text_model  # noqa: E402

# The protocol's name of each type, in lower case, and ONNX's.
TYPES = {
    "bool": "bool", "uint8": "uint8", "uint16": "uint16", "uint32": "uint32", "uint64": "uint64", "int8": "int8", "int16": "int16",
    "int32": "int32", "int64": "int64", "fp16": "float16", "bf16": "bfloat16", "fp32": "float", "fp64": "double", "bytes": "string",
}

# Turns of `slow`'s loop: about 100 ms for one row on one core.
SLOW_TURNS = 30_000


def main():
    repository = pathlib.Path(sys.argv[1])
    for name, kind in TYPES.items():
        add(repository, f"identity_{name}", f"({kind}[batch, n] INPUT0) => ({kind}[batch, n] OUTPUT0) {{ OUTPUT0 = Identity(INPUT0) }}")
    # A copy that is loaded, unloaded and overridden while others are in use.
    add(repository, "control", "(float[batch, n] INPUT0) => (float[batch, n] OUTPUT0) { OUTPUT0 = Identity(INPUT0) }")
    add(repository, "simple", pair("int32", "OUTPUT0 = Add(INPUT0, INPUT1) OUTPUT1 = Sub(INPUT0, INPUT1)"), config=pair_config("INT32"))
    add(repository, "simple_string", pair("string", "OUTPUT0 = Identity(INPUT0) OUTPUT1 = Identity(INPUT1)"), config=pair_config("STRING"))
    # The runtime has no sums of 8 bits, so they are widened.
    add(repository, "simple_int8", pair("int8", """
        a = Cast<to = 6>(INPUT0) b = Cast<to = 6>(INPUT1) sum = Add(a, b) difference = Sub(a, b)
        OUTPUT0 = Cast<to = 3>(sum) OUTPUT1 = Cast<to = 3>(difference)"""), config=pair_config("INT8"))
    classifier(repository)
    add(repository, "nobatch", "(float[2, 3] INPUT0) => (float[2, 3] OUTPUT0) { OUTPUT0 = Add(INPUT0, INPUT0) }", config="""
        max_batch_size: 0
        input { name: "INPUT0" data_type: TYPE_FP32 dims: [ 2, 3 ] }
        output { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 2, 3 ] }
        """)
    # BIAS has a default, ten, so a request may leave it out.
    add(repository, "optional", "(float[4] INPUT0, float[4] BIAS) => (float[4] OUTPUT0) { OUTPUT0 = Add(INPUT0, BIAS) }",
        {"BIAS": np.full(4, 10, np.float32)}, config="""
        max_batch_size: 0
        input { name: "INPUT0" data_type: TYPE_FP32 dims: [ 4 ] }
        input { name: "BIAS" data_type: TYPE_FP32 dims: [ 4 ] optional: true }
        output { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 4 ] }
        """)
    # Clients see rows of 4 and of 1; the model sees 2 x 2 and no dimension at all.
    add(repository, "reshape", """
        (float[batch, 2, 2] INPUT0, float[batch] INPUT1) => (float[batch, 2, 2] OUTPUT0, float[batch] OUTPUT1) {
            OUTPUT0 = Transpose<perm = [0, 2, 1]>(INPUT0)
            OUTPUT1 = Add(INPUT1, INPUT1)
        }""", config="""
        max_batch_size: 8
        input { name: "INPUT0" data_type: TYPE_FP32 dims: [ 4 ] reshape { shape: [ 2, 2 ] } }
        input { name: "INPUT1" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] } }
        output { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 4 ] reshape { shape: [ 2, 2 ] } }
        output { name: "OUTPUT1" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] } }
        """)
    slow(repository)
    image(repository)
    pictures(repository)


def add(repository, name, body, weights=None, config=None, files=None):
    model = text_model(f"{name} {body}", weights)
    onnx.checker.check_model(model, full_check=True)
    save(model, repository, name)
    files = dict(files or {})
    if config is not None:
        lines = [line.strip() for line in config.strip().splitlines()]
        files["config.pbtxt"] = "\n".join([f'name: "{name}"', 'platform: "onnxruntime_onnx"', *lines]) + "\n"
    for file, text in files.items():
        (repository / name / file).write_text(text)


def pair(kind, nodes):
    """Two inputs and two outputs of 16 elements a row, as in Triton's `simple` models."""
    return f"({kind}[b, 16] INPUT0, {kind}[b, 16] INPUT1) => ({kind}[b, 16] OUTPUT0, {kind}[b, 16] OUTPUT1) {{ {nodes} }}"


def pair_config(kind):
    tensors = [(side, f"{side.upper()}{i}") for side in ("input", "output") for i in (0, 1)]
    return "max_batch_size: 8\n" + "\n".join(f'{side} {{ name: "{name}" data_type: TYPE_{kind} dims: [ 16 ] }}' for side, name in tensors)


def classifier(repository):
    """Eight features, four named classes."""
    weights = ((np.arange(32) * 7 % 11 - 5) / 5).astype(np.float32).reshape(8, 4)
    add(repository, "classifier", """
        (float[batch, 8] INPUT0) => (float[batch, 4] OUTPUT0) {
            scores = MatMul(INPUT0, weights)
            OUTPUT0 = Softmax<axis = 1>(scores)
        }""", {"weights": weights}, files={"labels.txt": "north\neast\nsouth\nwest\n"}, config="""
        max_batch_size: 8
        input { name: "INPUT0" data_type: TYPE_FP32 dims: [ 8 ] }
        output { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 4 ] label_filename: "labels.txt" }
        """)


def slow(repository):
    """Each turn moves the row one place to the right, by a matrix product: OUTPUT0 = np.roll(INPUT0, SLOW_TURNS, axis=1)."""
    size = 256
    add(repository, "slow", """
        (float[batch, 256] INPUT0) => (float[batch, 256] OUTPUT0) {
            OUTPUT0 = Loop(turns, , INPUT0) <body = turn (int64 i, bool go, float[b, 256] x) => (bool go_on, float[b, 256] y) {
                go_on = Identity(go)
                y = MatMul(x, shift)
            }>
        }""", {"turns": np.int64(SLOW_TURNS), "shift": np.roll(np.eye(size, dtype=np.float32), 1, axis=1)}, config="""
        max_batch_size: 1
        input { name: "INPUT0" data_type: TYPE_FP32 dims: [ 256 ] }
        output { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 256 ] }
        """)


def image(repository):
    """A picture of one colour is classified as that colour. Takes pixels from -1 to 1, or an encoded picture as `image`."""
    sharpen = (4 * np.eye(3, dtype=np.float32)).reshape(3, 3, 1, 1)
    add(repository, "image", """
        (float[batch, 3, 32, 32] data) => (float[batch, 3] colour) {
            maps = Conv(data, sharpen)
            means = GlobalAveragePool(maps)
            flat = Flatten<axis = 1>(means)
            colour = Softmax<axis = 1>(flat)
        }""", {"sharpen": sharpen}, files={
            "colours.txt": "red\ngreen\nblue\n",
            "sluice.toml": "\n".join([
                "[image]", 'input = "data"', "width = 32", "height = 32", 'resize = "stretch"', 'layout = "nchw"', 'channels = "rgb"',
                "mean = [127.5, 127.5, 127.5]", "scale = [0.00784313725, 0.00784313725, 0.00784313725]"]) + "\n",
        }, config="""
        max_batch_size: 8
        input { name: "data" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 32, 32 ] }
        output { name: "colour" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "colours.txt" }
        """)


def pictures(repository):
    """Models that give the tensor back which the gateway made of a picture, one for each way to make it."""
    for resize, layout, channels in ("stretch", "nchw", "rgb"), ("cover", "nhwc", "bgr"), ("crop", "nchw", "rgb"):
        dims = "3, 48, 64" if layout == "nchw" else "48, 64, 3"
        add(repository, f"picture_{resize}", f"(float[batch, {dims}] data) => (float[batch, {dims}] tensor) {{ tensor = Identity(data) }}",
            files={"sluice.toml": "\n".join([
                "[image]", 'input = "data"', "width = 64", "height = 48", f'resize = "{resize}"', f'layout = "{layout}"',
                f'channels = "{channels}"', "mean = [10.0, 20.0, 30.0]", "scale = [0.00392156862, 0.00392156862, 0.00392156862]"]) + "\n"})


if __name__ == "__main__":
    main()
