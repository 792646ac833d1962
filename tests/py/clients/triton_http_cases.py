"""What tritonclient.http and tritonclient.http.aio have in their own way: JSON beside binary tensors, bodies compressed whole."""
import numpy as np

from common import TENSORS, same
from triton_cases import TritonCases, check_pair, pair


class HttpCases(TritonCases):
    transport = "http"
    as_json = {}

    def typed(self, model, array, datatype):
        tensor = self.module.InferInput("INPUT0", array.shape, datatype)
        if datatype in ("FP16", "BF16"):  # the library refuses BF16 itself, so the data goes in by hand
            tensor._data = array.flatten().tolist()
        else:
            tensor.set_data_from_numpy(array, binary_data=False)
        result = self.client.infer(model, [tensor], outputs=[self.output("OUTPUT0", binary_data=False)])
        got = result.as_numpy("OUTPUT0")
        assert "data" in result.get_output("OUTPUT0"), result.get_output("OUTPUT0")
        if datatype == "BYTES":  # as text
            got = np.array([[text.encode() for text in row] for row in got], dtype=object)
        return got

    def compressed(self, algorithm, model, inputs):
        return self.client.infer(model, inputs, request_compression_algorithm=algorithm, response_compression_algorithm=algorithm)

    def settings(self, reply):
        return {name: [str(v).lower() for v in (value if isinstance(value, list) else [value])] for name, value in reply.items()}

    def case_infer_mixed(self):
        """One input as JSON and one binary, one output as JSON and one binary."""
        feed = pair(np.int32, 2)
        tensors = self.inputs(feed)
        tensors[0].set_data_from_numpy(feed["INPUT0"], binary_data=False)
        outputs = [self.output("OUTPUT0", binary_data=True), self.output("OUTPUT1", binary_data=False)]
        result = self.client.infer("simple", tensors, outputs=outputs)
        check_pair(result, feed)
        assert "data" in result.get_output("OUTPUT1") and "data" not in result.get_output("OUTPUT0")

    def case_infer_typed_half_output_refused(self):
        wanted = [self.output("OUTPUT0", binary_data=False)]
        self.fails("INVALID_ARGUMENT", "FP16", call=lambda: self.infer("identity_fp16", {"INPUT0": TENSORS["FP16"]}, outputs=wanted))

    def case_error_byte_size(self):
        tensors = self.inputs(pair(np.int32))
        tensors[0]._raw_data = tensors[0]._raw_data[:63]
        tensors[0]._parameters["binary_data_size"] = 63
        self.fails("INVALID_ARGUMENT", "INPUT0", "63", "64", call=lambda: self.client.infer("simple", tensors))

    def case_classification_json(self):
        array = np.linspace(-1, 1, 8, dtype=np.float32).reshape(1, 8)
        wanted = [self.output("OUTPUT0", class_count=2, binary_data=False)]
        got = self.infer("classifier", {"INPUT0": array}, outputs=wanted).as_numpy("OUTPUT0")
        assert got.shape == (1, 2) and all(len(text.split(":")) == 3 for text in got[0]), got

    def case_query_parameters(self):
        """What stands behind the `?` is no part of the path."""
        feed = pair(np.int32)
        same(self.infer("simple", feed, query_params={"a": 1, "b": "x"}).as_numpy("OUTPUT0"), feed["INPUT0"] + feed["INPUT1"])
