"""What tritonclient.grpc and tritonclient.grpc.aio have beyond the calls that all flavours share: typed contents, deadlines, streams."""
import struct

import grpc
import numpy as np
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException, deserialize_bytes_tensor, triton_to_np_dtype

from common import CONTENTS, holds, same
from triton_cases import TritonCases, check_pair, pair

STREAM_LENGTH = 5000
STREAM_WRONG = 2500
MAX_MESSAGE = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class GrpcCases(TritonCases):
    transport = "grpc"
    as_json = {"as_json": True}

    def stub_infer(self, request):
        """ModelInfer with a message the library would not make."""
        raise NotImplementedError

    def open(self, **options):
        """A second client."""
        raise NotImplementedError

    def stream(self, requests, **options):
        """Sends (model, inputs, options) each and gives (result, error) each until the stream ends."""
        raise NotImplementedError

    def compressed(self, algorithm, model, inputs):
        return self.client.infer(model, inputs, compression_algorithm=algorithm)

    def settings(self, reply):
        values = {}
        for name, value in reply.get("settings", {}).items():
            texts = value["value"] if "value" in value else list(value.values())
            values[name] = [str(text).lower() for text in texts]
        return values

    def typed(self, model, array, datatype):
        request = pb.ModelInferRequest(model_name=model)
        tensor = request.inputs.add(name="INPUT0", datatype=datatype, shape=array.shape)
        getattr(tensor.contents, CONTENTS.get(datatype, "fp32_contents")).extend(array.flatten().tolist())
        reply = self.stub_infer(request)
        assert len(reply.raw_output_contents) == 1 and reply.outputs[0].datatype == datatype, reply
        raw, shape = reply.raw_output_contents[0], list(reply.outputs[0].shape)
        if datatype == "BYTES":
            return deserialize_bytes_tensor(raw).reshape(shape)
        return np.frombuffer(raw, triton_to_np_dtype(datatype)).reshape(shape)

    def stub_fails(self, code, *needles, request):
        try:
            self.stub_infer(request)
        except grpc.RpcError as error:
            assert error.code().name == code, f"expected {code}, got {error.code().name}: {error.details()}"
            holds(error.details(), *needles)
            return
        raise AssertionError(f"expected {code}, got an answer")

    def fails(self, code, *needles, call):
        def translated():
            try:
                call()
            except grpc.RpcError as error:
                raise InferenceServerException(error.details(), status=str(error.code())) from error
        return super().fails(code, *needles, call=translated)

    def request(self, model="simple", length=64, **fields):
        request = pb.ModelInferRequest(model_name=model, **fields)
        for name in ("INPUT0", "INPUT1"):
            request.inputs.add(name=name, datatype="INT32", shape=[1, 16])
            request.raw_input_contents.append(bytes(length))
        return request

    def case_error_bad_version(self):
        self.fails("INVALID_ARGUMENT", "one", call=lambda: self.infer("simple", pair(np.int32), model_version="one"))

    def case_error_byte_size(self):
        self.stub_fails("INVALID_ARGUMENT", "INPUT0", "63", "64", request=self.request(length=63))
        strings = pb.ModelInferRequest(model_name="identity_bytes")
        strings.inputs.add(name="INPUT0", datatype="BYTES", shape=[1, 1])
        strings.raw_input_contents.append(struct.pack("<I", 2**32 - 1))
        self.stub_fails("INVALID_ARGUMENT", "INPUT0", request=strings)

    def case_error_both_contents(self):
        request = self.request()
        request.inputs[0].contents.int_contents.append(1)
        self.stub_fails("INVALID_ARGUMENT", request=request)

    def case_error_wrong_contents(self):
        request = pb.ModelInferRequest(model_name="identity_int32")
        tensor = request.inputs.add(name="INPUT0", datatype="INT32", shape=[1, 1])
        tensor.contents.fp32_contents.append(1)
        self.stub_fails("INVALID_ARGUMENT", "int_contents", request=request)

    def case_error_duplicate_input(self):
        request = self.request()
        request.inputs[1].name = "INPUT0"
        self.stub_fails("INVALID_ARGUMENT", "INPUT0", request=request)

    def case_unknown_parameters(self):
        """Reserved names that nobody knows yet are ignored, as are all kinds of custom values."""
        request = self.request(id="p")
        request.parameters["triton_something_new"].bool_param = True
        request.parameters["custom"].uint64_param = 7
        assert self.stub_infer(request).id == "p"

    def case_client_timeout(self):
        slow = np.zeros((1, 256), np.float32)
        self.fails("DEADLINE_EXCEEDED", call=lambda: self.infer("slow", {"INPUT0": slow}, client_timeout=0.02))
        same(self.infer("slow", {"INPUT0": slow}, client_timeout=60).as_numpy("OUTPUT0"), slow)

    def case_keep_alive(self):
        options = triton.KeepAliveOptions(keepalive_time_ms=200, keepalive_timeout_ms=5000, keepalive_permit_without_calls=True,
                                          http2_max_pings_without_data=0)
        client = self.open(keepalive_options=options)
        assert client.is_server_live()
        self.pause(2)  # ten pings without a call: no server may take that for an attack
        check_pair(client.infer("simple", self.inputs(pair(np.int32))), pair(np.int32))
        client.close()

    def case_custom_arguments(self):
        arguments = MAX_MESSAGE + [("grpc.primary_user_agent", "my-application"), ("grpc.lb_policy_name", "round_robin"),
                                   ("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        client = self.open(channel_args=arguments)
        check_pair(client.infer("simple", self.inputs(pair(np.int32))), pair(np.int32))
        client.close()

    def case_stream(self):
        """5 000 messages, one of which is wrong, on one stream."""
        feeds = [{name: array + i % 100 for name, array in pair(np.int32).items()} for i in range(100)]
        ready, wrong = [self.inputs(feed) for feed in feeds], self.inputs({"INPUT0": feeds[0]["INPUT0"]})
        requests = (("simple", wrong if i == STREAM_WRONG else ready[i % 100], {"request_id": str(i)}) for i in range(STREAM_LENGTH))
        seen, errors = set(), []
        for result, error in self.stream(requests):
            if error is not None:
                errors.append(str(error))
                continue
            i = int(self.response(result)["id"])
            check_pair(result, feeds[i % 100])
            seen.add(i)
        assert len(errors) == 1 and f"request id: {STREAM_WRONG}" in errors[0], errors[:3]
        assert seen == set(range(STREAM_LENGTH)) - {STREAM_WRONG}, f"{len(seen)} answers"

    def case_stream_error_as_status(self):
        """With `triton_grpc_error` the first failure is the status of the stream.

        In turn, since grpc.aio puts its own "Internal error from Core" over the status that came, when it is writing at that
        moment: https://github.com/grpc/grpc/issues/36066.
        """
        good, wrong = self.inputs(pair(np.int32)), self.inputs({"INPUT0": pair(np.int32)["INPUT0"]})
        requests = [("simple", wrong, {"request_id": "1"})] + [("simple", good, {"request_id": "2"})]
        answers = list(self.stream(requests, headers={"triton_grpc_error": "true"}, in_turn=True))
        result, error = answers[-1]
        assert error is not None and "INVALID_ARGUMENT" in str(error.status()), (result, error)

    def case_stream_compressed(self):
        feed = pair(np.int32)
        for result, error in self.stream([("simple", self.inputs(feed), {})] * 3, compression_algorithm="gzip"):
            assert error is None, error
            check_pair(result, feed)
