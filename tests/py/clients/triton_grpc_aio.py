"""tritonclient.grpc.aio."""
import asyncio

import grpc
import numpy as np
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from blocking import Blocking
from common import arguments, run
from triton_cases import check_pair, pair
from triton_grpc_cases import GrpcCases


class GrpcAio(GrpcCases):
    module = triton

    def __init__(self, args):
        self.repo, self.shm, self.address = args.repo, args.shm, args.grpc
        self.loop = asyncio.new_event_loop()
        self.client = self.open()

    def pause(self, seconds):
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def open(self, **options):
        async def connect():
            return triton.InferenceServerClient(self.address, **options)
        return Blocking(self.loop, connect())

    def stub_infer(self, request):
        async def call():
            return await self.client.inner._client_stub.ModelInfer(request, timeout=60)
        return self.loop.run_until_complete(call())

    def stream(self, requests, headers=None, compression_algorithm=None):
        async def sent():
            for model, inputs, options in requests:
                yield {"model_name": model, "inputs": inputs} | options

        async def talk():
            answers, client = [], triton.InferenceServerClient(self.address)
            stream = client.stream_infer(sent(), stream_timeout=80, headers=headers, compression_algorithm=compression_algorithm)
            try:
                async for answer in stream:
                    answers.append(answer)
            except grpc.RpcError as error:
                answers.append((None, InferenceServerException(error.details(), status=str(error.code()))))
            await client.close()
            return answers
        return self.loop.run_until_complete(talk())

    def case_async_infer(self):
        async def many():
            feeds = [pair(np.int32, 1 + i % 8) for i in range(50)]
            results = await asyncio.gather(*[self.client.inner.infer("simple", self.inputs(feed)) for feed in feeds])
            for feed, result in zip(feeds, results):
                check_pair(result, feed)
        self.loop.run_until_complete(many())

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
    run(GrpcAio(args).cases(), args.only)
