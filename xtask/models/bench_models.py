"""Models of usual sizes with random (seeded) weights, for measuring: what they answer means nothing.

Graphs have the shape that torch's exporter gives: batch normalisation folded in, dynamic batch.
"""
import numpy as np
from onnx import TensorProto as T

from graph import Graph, save


def write(bench):
    for build in (mlp, resnet50, mobilenetv2):
        save(build(), bench, build.__name__)


class Net(Graph):
    def __init__(self, seed=7):
        super().__init__()
        self.random = np.random.default_rng(seed)

    def normal(self, shape, deviation):
        return self.weight(f"w_{len(self.weights)}", (self.random.standard_normal(shape) * deviation).astype(np.float32))

    def conv(self, x, inputs, outputs, kernel, stride=1, group=1):
        fan = inputs // group * kernel * kernel
        weight = self.normal((outputs, inputs // group, kernel, kernel), fan ** -0.5)
        return self.op("Conv", x, weight, self.normal(outputs, 0.01), kernel_shape=[kernel, kernel],
                       strides=[stride, stride], pads=[kernel // 2] * 4, group=group)

    def linear(self, x, inputs, outputs, name=None):
        return self.op("Add", self.op("MatMul", x, self.normal((inputs, outputs), inputs ** -0.5)),
                       self.normal(outputs, 0.01), name=name)

    def classifier(self, x, channels, name):
        x = self.op("Flatten", self.op("GlobalAveragePool", x), axis=1)
        self.op("Gemm", x, self.normal((1000, channels), channels ** -0.5), self.normal(1000, 0.01),
                name="output", transB=1)
        return self.model(name, [("input", T.FLOAT, ["batch", 3, 224, 224])], [("output", T.FLOAT, ["batch", 1000])])


def mlp():
    net = Net()
    net.linear(net.op("Relu", net.linear("input", 32, 64)), 64, 10, name="output")
    return net.model("mlp", [("input", T.FLOAT, ["batch", 32])], [("output", T.FLOAT, ["batch", 10])])


def resnet50():
    net = Net()
    x = net.op("Relu", net.conv("input", 3, 64, 7, 2))
    x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for width, blocks, first_stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            y = net.op("Relu", net.conv(x, channels, width, 1))
            y = net.op("Relu", net.conv(y, width, width, 3, stride))
            y = net.conv(y, width, width * 4, 1)
            shortcut = net.conv(x, channels, width * 4, 1, stride) if block == 0 else x
            x = net.op("Relu", net.op("Add", y, shortcut))
            channels = width * 4
    return net.classifier(x, channels, "resnet50")


def mobilenetv2():
    net = Net()
    zero, six = net.weight("zero", np.float32(0)), net.weight("six", np.float32(6))
    relu6 = lambda x: net.op("Clip", x, zero, six)
    x = relu6(net.conv("input", 3, 32, 3, 2))
    channels = 32
    for expansion, out, repeats, first_stride in ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
                                                  (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)):
        for repeat in range(repeats):
            stride, wide = first_stride if repeat == 0 else 1, channels * expansion
            y = relu6(net.conv(x, channels, wide, 1)) if expansion != 1 else x
            y = net.conv(relu6(net.conv(y, wide, wide, 3, stride, group=wide)), wide, out, 1)
            x = net.op("Add", x, y) if stride == 1 and channels == out else y
            channels = out
    return net.classifier(relu6(net.conv(x, channels, 1280, 1)), 1280, "mobilenetv2")
