"""tritonclient.http.aio."""
import asyncio

import numpy as np
import tritonclient.http.aio as triton

from blocking import Blocking
from common import arguments, run
from triton_cases import check_pair, pair
from triton_http_cases import HttpCases


class HttpAio(HttpCases):
    module = triton

    def __init__(self, args):
        self.repo, self.shm, self.address = args.repo, args.shm, args.http
        self.loop = asyncio.new_event_loop()
        self.client = self.open()

    def open(self, **options):
        async def connect():
            return triton.InferenceServerClient(self.address, **options)
        return Blocking(self.loop, connect())

    def case_async_infer(self):
        async def many():
            feeds = [pair(np.int32, 1 + i % 8) for i in range(50)]
            results = await asyncio.gather(*[self.client.inner.infer("simple", self.inputs(feed)) for feed in feeds])
            for feed, result in zip(feeds, results):
                check_pair(result, feed)
        self.loop.run_until_complete(many())

    def case_client_timeout(self):
        """The time is the client's own; the server sees the connection go."""
        hasty = self.open(conn_timeout=0.02)
        slow = self.inputs({"INPUT0": np.zeros((1, 256), np.float32)})
        try:
            hasty.infer("slow", slow)
        except asyncio.TimeoutError:
            pass
        else:
            raise AssertionError("answered within 20 ms")
        hasty.close()
        self.simple()

    def case_async_cancel(self):
        async def cancelled():
            slow = self.inputs({"INPUT0": np.zeros((1, 256), np.float32)})
            tasks = [asyncio.ensure_future(self.client.inner.infer("slow", slow)) for _ in range(5)]
            await asyncio.sleep(0.02)
            for task in tasks:
                task.cancel()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(answer, asyncio.CancelledError) for answer in answers), answers
        self.loop.run_until_complete(cancelled())
        self.simple()


if __name__ == "__main__":
    args = arguments()
    run(HttpAio(args).cases(), args.only)
