"""tritonclient.grpc."""
import queue
import time

import numpy as np
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2_grpc as stubs

from common import arguments, run
from triton_cases import check_pair, pair
from triton_grpc_cases import STREAM_LENGTH, GrpcCases


class Grpc(GrpcCases):
    module = triton
    pause = staticmethod(time.sleep)

    def __init__(self, args):
        self.repo, self.shm, self.address = args.repo, args.shm, args.grpc
        self.client = self.open()

    def open(self, **options):
        return triton.InferenceServerClient(self.address, **options)

    def stub_infer(self, request):
        return stubs.GRPCInferenceServiceStub(self.client._channel).ModelInfer(request, timeout=60)

    def stream(self, requests, headers=None, compression_algorithm=None, in_turn=False):
        answers = queue.Queue(maxsize=2 * STREAM_LENGTH)
        client = self.open()
        client.start_stream(lambda result, error: answers.put((result, error)), headers=headers, compression_algorithm=compression_algorithm)
        for batch in [[request] for request in requests] if in_turn else [requests]:
            sent, ended = 0, False
            for model, inputs, options in batch:
                client.async_stream_infer(model, inputs, **options)
                sent += 1
            while sent and not ended:
                result, error = answers.get(timeout=60)
                yield result, error
                sent, ended = sent - 1, error is not None and error.status() is not None
            if ended:
                break  # by the stream's own status
        client.stop_stream(cancel_requests=False)
        client.close()

    def case_stream_empty_final(self):
        # asked for: tritonclient.grpc.aio has no way to
        requests = [("simple", self.inputs(pair(np.int32)), {"request_id": "1", "enable_empty_final_response": True})]
        last = []
        for result, error in self.stream(requests):
            assert error is None, error
            last.append(result.get_response().parameters["triton_final_response"].bool_param)
        assert last and last[-1] is True and not any(last[:-1]), last

    def case_async_infer(self):
        done = queue.Queue()
        for i in range(50):
            feed = pair(np.int32, 1 + i % 8)
            self.client.async_infer("simple", self.inputs(feed), lambda result, error, feed=feed: done.put((feed, result, error)))
        for _ in range(50):
            feed, result, error = done.get(timeout=30)
            assert error is None, error
            check_pair(result, feed)

    def case_async_cancel(self):
        done = queue.Queue()
        slow = self.inputs({"INPUT0": np.zeros((1, 256), np.float32)})
        calls = [self.client.async_infer("slow", slow, lambda result, error: done.put(error)) for _ in range(5)]
        for call in calls:
            call.cancel()
        errors = [done.get(timeout=30) for _ in calls]
        assert all(error is not None and "ancelled" in str(error) for error in errors), errors
        self.simple()


if __name__ == "__main__":
    args = arguments()
    run(Grpc(args).cases(), args.only)
