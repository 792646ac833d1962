"""tritonclient.http."""
import numpy as np
import tritonclient.http as triton

from common import arguments, run
from triton_cases import check_pair, pair
from triton_http_cases import HttpCases


class Http(HttpCases):
    module = triton

    def __init__(self, args):
        self.repo, self.shm, self.address = args.repo, args.shm, args.http
        self.client = triton.InferenceServerClient(self.address, concurrency=8)

    def case_async_infer(self):
        feeds = [pair(np.int32, 1 + i % 8) for i in range(50)]
        calls = [self.client.async_infer("simple", self.inputs(feed)) for feed in feeds]
        for feed, call in zip(feeds, calls):
            check_pair(call.get_result(timeout=30), feed)

    def case_client_timeout(self):
        """The time is the client's own; the server sees the connection go."""
        hasty = triton.InferenceServerClient(self.address, network_timeout=0.02)
        slow = self.inputs({"INPUT0": np.zeros((1, 256), np.float32)})
        try:
            hasty.infer("slow", slow)
        except Exception as error:
            assert "timed out" in str(error) or "timeout" in str(error), repr(error)
        else:
            raise AssertionError("answered within 20 ms")
        hasty.close()
        self.simple()


if __name__ == "__main__":
    args = arguments()
    run(Http(args).cases(), args.only)
