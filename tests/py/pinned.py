"""A stock Triton client gets the reference, or the variant it pins, and each answers as its own file does.

pinned.py GRPC SAMPLES.npz REFERENCE.onnx VARIANT.onnx
"""
import sys

import numpy as np
import onnxruntime
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

grpc, samples, reference, variant = sys.argv[1:5]
pictures = np.load(samples)["x"][:16]
client = triton.InferenceServerClient(grpc)


def ask(pin):
    tensor = triton.InferInput("x", list(pictures[:1].shape), "FP32")
    answers, names = [], set()
    for i in range(len(pictures)):
        tensor.set_data_from_numpy(pictures[i:i + 1])
        answer = client.infer("classifier", [tensor], parameters={"sluice_variant": pin} if pin else None)
        answers.append(answer.as_numpy("logits")[0])
        names.add(answer.get_response().parameters["sluice_variant"].string_param)
    name, = names
    return name, np.array(answers)


seen = []
for pin, file in ((None, reference), ("int8-qdq@ort", variant)):
    session = onnxruntime.InferenceSession(file)
    expected = np.array([session.run(None, {"x": pictures[i:i + 1]})[0][0] for i in range(len(pictures))])
    name, got = ask(pin)
    assert np.allclose(got, expected, atol=1e-3), f"{name}: {np.abs(got - expected).max()} from its own file"
    seen.append(name)
try:
    ask("int4@nobody")
    raise SystemExit("a variant that is not there answered")
except InferenceServerException as error:
    assert "int4@nobody" in str(error), error
print(*seen)
