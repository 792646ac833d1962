"""The onnx checker and OpenCV take what was made, and OpenCV answers as ONNX Runtime does for the reference.

opencv.py prepare MODEL IN.npz FOLDER    the model and samples at 128 x 128: FOLDER/model.onnx, FOLDER/samples.npz
opencv.py check SAMPLES.npz REFERENCE.onnx FILE.onnx...     each FILE by OpenCV against REFERENCE by ONNX Runtime

128 x 128 because OpenCV 5.0 computes quantized 1 x 1 convolutions wrongly on planes that are no multiple of 16 values, such as 6 x 6 and
3 x 3 (a single such node, against ONNX Runtime and by hand). At 128 the planes are 64 x 64 to 4 x 4.
"""
import pathlib
import sys

import cv2
import numpy as np
import onnx
import onnxruntime


def prepare(source, samples, folder):
    model = onnx.load(source)
    for size in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        size.dim_value = 128
    onnx.save(model, folder / "model.onnx")
    data = np.load(samples)
    pictures = np.stack([np.stack([cv2.resize(channel, (128, 128)) for channel in picture]) for picture in data["x"]])
    np.savez(folder / "samples.npz", x=pictures, labels=data["labels"])


def check(samples, reference, files):
    pictures = np.load(samples)["x"][:24]
    session = onnxruntime.InferenceSession(reference)
    for file in files:
        onnx.checker.check_model(onnx.load(file), full_check=True)
        net = cv2.dnn.readNetFromONNX(str(file))
        got, expected = [], []
        for i in range(len(pictures)):
            net.setInput(pictures[i:i + 1])
            got.append(net.forward()[0].copy())
            expected.append(session.run(None, {"x": pictures[i:i + 1]})[0][0])
        got, expected = np.array(got), np.array(expected)
        cosine = (got * expected).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(expected, axis=1)
        agree = (got.argmax(1) == expected.argmax(1)).mean()
        assert cosine.mean() > 0.97 and agree > 0.9, f"{file}: cosine {cosine.mean()}, same class {agree}"
        print(f"{pathlib.Path(file).parent.name}: cosine {cosine.min():.4f}, same class {agree:.2f}")


if sys.argv[1] == "prepare":
    prepare(sys.argv[2], sys.argv[3], pathlib.Path(sys.argv[4]))
else:
    check(sys.argv[2], sys.argv[3], sys.argv[4:])
