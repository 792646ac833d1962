"""Encoded pictures against a running server: `images.py GRPC_ADDRESS MODEL MODELS_DIR PICTURE...`.

Sends each file as one BYTES element on input `image`, then the tensor that OpenCV makes of it by the model's sluice.toml, and
compares the answers. A model that gives its input back has its tensor compared itself: within one grey level for PNG (in
truth equal), and within JPEG_LEVELS for JPEG, whose decoders round differently. A failed assertion is a failed test."""
import sys, tomllib

import cv2
import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

ADDRESS, MODEL, MODELS, *PICTURES = sys.argv[1:]
JPEG_LEVELS = 6
with open(f"{MODELS}/{MODEL}/sluice.toml", "rb") as file:
    SPEC = tomllib.load(file)["image"]
client = triton.InferenceServerClient(ADDRESS)


def opencv(path):
    """The tensor of the model's input, one row."""
    pixels = cv2.imread(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    size, swap = (SPEC["width"], SPEC["height"]), SPEC["channels"] == "rgb"
    if SPEC["resize"] == "crop":  # not one of blobFromImage's
        height, width = pixels.shape[:2]
        factor = float(max(np.float32(int(want / 0.875 + 0.5)) / np.float32(have) for want, have in zip(size, (width, height))))
        pixels = cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
        x, y = (pixels.shape[1] - size[0]) // 2, (pixels.shape[0] - size[1]) // 2
        pixels = pixels[y:y + size[1], x:x + size[0]]
    # One factor is all that blobFromImage takes; the rest is done after it.
    blob = cv2.dnn.blobFromImage(pixels, 1.0, size, SPEC["mean"], swap, SPEC["resize"] == "cover")
    blob *= np.array(SPEC["scale"], np.float32).reshape(1, 3, 1, 1)
    return blob if SPEC["layout"] == "nchw" else np.ascontiguousarray(blob.transpose(0, 2, 3, 1))


def infer(name, array):
    tensor = triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    result = client.infer(MODEL, [tensor])
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


for path in PICTURES:
    blob = opencv(path)
    with open(path, "rb") as file:
        encoded = file.read()
    ours = infer("image", np.array([encoded], dtype=object))
    theirs = infer(SPEC["input"], blob)
    assert ours.keys() == theirs.keys() and ours, (path, ours.keys())
    level = max(SPEC["scale"])
    allowed = 1 if encoded.startswith(b"\x89PNG") else JPEG_LEVELS
    for name, answer in ours.items():
        assert answer.shape == theirs[name].shape, (path, name, answer.shape)
        apart = float(np.abs(answer - theirs[name]).max())
        if answer.shape == blob.shape:
            print(f"{path}: {name} differs by {apart / level:.2f} grey levels")
            assert apart <= allowed * level * 1.001, (path, name, apart / level)
        else:
            span = float(np.ptp(theirs[name]))
            print(f"{path}: {name} differs by {apart:.5f} in a range of {span:.3f}, highest at {answer.argmax()}")
            assert answer.argmax() == theirs[name].argmax() and apart <= 0.1 * span, (path, name, apart, span)

for broken, text in (b"not a picture", "neither JPEG nor PNG"), (b"", "picture 1 is empty"), (encoded[:len(encoded) // 2], "picture 1"):
    try:
        infer("image", np.array([broken], dtype=object))
    except InferenceServerException as error:
        assert "INVALID_ARGUMENT" in error.status() and "input `image`" in error.message() and text in error.message(), error
    else:
        raise AssertionError(f"a broken picture was answered: {text}")
