"""KServe's own client. `--transport grpc` or `http`: the two are columns of their own."""
import asyncio
import logging
import sys

import grpc
import httpx
import numpy as np

from common import TENSORS, arguments, holds, methods, run, same
from triton_cases import HTTP_STATUS, pair

args = arguments(transport={"choices": ["grpc", "http"], "required": True})
sys.argv[1:] = []  # its server reads the command line as soon as it is imported
logging.disable(logging.ERROR)  # it logs each refused call with its stack
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig  # noqa: E402
from kserve.protocol.infer_type import RequestedOutput  # noqa: E402
from kserve.utils.numpy_codec import from_np_dtype  # noqa: E402


class KserveCases:
    def __init__(self, args):
        self.transport, self.base = args.transport, f"http://{args.http}"
        self.loop = asyncio.new_event_loop()

        async def connect():
            if self.transport == "grpc":
                return InferenceGRPCClient(args.grpc, timeout=60)
            return InferenceRESTClient(RESTConfig(protocol="v2", timeout=60))
        self.client = self.loop.run_until_complete(connect())

    def cases(self):
        types = [name for name in TENSORS if name != "BF16"]  # its numpy has no such type
        return {f"infer-{name.lower()}": lambda name=name: self.identity(name) for name in types} | methods(self)

    def ask(self, method, *args, **options):
        base = [] if self.transport == "grpc" else [self.base]
        return self.loop.run_until_complete(getattr(self.client, method)(*base, *args, **options))

    def infer(self, model, feed, binary=True, outputs=None, timeout=60, **fields):
        inputs = []
        for name, array in feed.items():
            tensor = InferInput(name, list(array.shape), from_np_dtype(array.dtype))
            tensor.set_data_from_numpy(array, binary_data=binary)
            inputs.append(tensor)
        fields.setdefault("request_id", "kserve")
        parameters = {"binary_data_output": binary} if self.transport == "http" else {}
        request = InferRequest(model, inputs, parameters=parameters | fields.pop("parameters", {}), request_outputs=outputs, **fields)
        if self.transport == "grpc":
            return self.ask("infer", request, timeout=timeout)
        return self.ask("infer", request, model_name=model, timeout=timeout)

    def identity(self, datatype):
        array = TENSORS[datatype]
        if datatype == "BYTES" and self.transport == "http":
            array = np.array([[b"", b"a\0b", "grüße".encode()]], dtype=object)  # this client makes text of every answer
        got = self.output(self.infer(f"identity_{datatype.lower()}", {"INPUT0": array}), "OUTPUT0")
        if datatype == "BYTES" and self.transport == "http":
            got = np.array([[text.encode() for text in row] for row in got], dtype=object)
        same(got, array, datatype)

    def output(self, reply, name):
        return reply.get_output_by_name(name).as_numpy()

    def fails(self, code, *needles, call):
        try:
            call()
        except grpc.RpcError as error:
            assert error.code().name == code, f"expected {code}, got {error.code().name}: {error.details()}"
            holds(error.details(), *needles)
        except httpx.HTTPStatusError as error:
            assert str(error.response.status_code) == HTTP_STATUS[code], f"expected {HTTP_STATUS[code]}, got {error}"
            holds(str(error).split(", '")[0], *needles)  # without the address
        else:
            raise AssertionError(f"expected {code}, got an answer")

    def case_server_live(self):
        assert self.ask("is_server_live") is True

    def case_server_ready(self):
        assert self.ask("is_server_ready") is True

    def case_model_ready(self):
        assert self.ask("is_model_ready", "simple") is True
        if self.transport == "http":
            assert self.ask("is_model_ready", "nope") is False

    def case_infer_simple(self):
        feed = pair(np.int32, 3)
        reply = self.infer("simple", feed)
        same(self.output(reply, "OUTPUT0"), feed["INPUT0"] + feed["INPUT1"])
        same(self.output(reply, "OUTPUT1"), feed["INPUT0"] - feed["INPUT1"])

    def case_infer_typed(self):
        feed = pair(np.int32, 3)
        same(self.output(self.infer("simple", feed, binary=False), "OUTPUT0"), feed["INPUT0"] + feed["INPUT1"])

    def case_outputs_subset(self):
        reply = self.infer("simple", pair(np.int32), outputs=[RequestedOutput("OUTPUT1")])
        assert [output.name for output in reply.outputs] == ["OUTPUT1"], reply.outputs

    def case_request_id(self):
        assert self.infer("simple", pair(np.int32), request_id="id-7 é").id == "id-7 é"

    def case_parameters(self):
        self.infer("simple", pair(np.int32), parameters={"text": "some", "whole": 7, "yes": True})

    def case_infer_32_mib(self):
        array = np.arange((32 << 20) // 4, dtype=np.float32).reshape(1, -1)
        same(self.output(self.infer("identity_fp32", {"INPUT0": array}), "OUTPUT0"), array)

    def case_client_timeout(self):
        slow = np.zeros((1, 256), np.float32)
        if self.transport == "grpc":
            self.fails("DEADLINE_EXCEEDED", call=lambda: self.infer("slow", {"INPUT0": slow}, timeout=0.02))
            return
        try:
            self.infer("slow", {"INPUT0": slow}, timeout=0.02)
        except httpx.TimeoutException:
            return
        raise AssertionError("answered within 20 ms")

    def case_error_unknown_model(self):
        self.fails("NOT_FOUND", "nope", call=lambda: self.infer("nope", pair(np.int32)))

    def case_error_shape(self):
        feed = {name: array[:, :15] for name, array in pair(np.int32).items()}
        self.fails("INVALID_ARGUMENT", "INPUT", "15", "16", call=lambda: self.infer("simple", feed))

    def case_error_batch(self):
        self.fails("INVALID_ARGUMENT", "9", "8", "simple", call=lambda: self.infer("simple", pair(np.int32, 9)))

    def case_error_datatype(self):
        self.fails("INVALID_ARGUMENT", "INPUT0", "FP32", "INT32", call=lambda: self.infer("simple", pair(np.float32)))

    def case_error_missing_input(self):
        self.fails("INVALID_ARGUMENT", "2", "1", call=lambda: self.infer("simple", {"INPUT0": pair(np.int32)["INPUT0"]}))


if __name__ == "__main__":
    run(KserveCases(args).cases(), args.only)
