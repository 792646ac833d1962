"""An asyncio client whose calls wait, so that the cases of the other flavours fit it too."""
import asyncio
import functools
import inspect

import numpy as np

from triton_cases import check_pair, pair


class Blocking:
    def __init__(self, loop, opening):
        self.loop = loop
        self.inner = loop.run_until_complete(opening)

    def __getattr__(self, name):
        method = getattr(self.inner, name)
        if not inspect.iscoroutinefunction(method):
            return method

        @functools.wraps(method)
        def call(*args, **options):
            return self.loop.run_until_complete(method(*args, **options))
        return call


class AioCases:
    """What both asyncio flavours have of their own; goes in front of the cases of the protocol."""

    def __init__(self, args, address):
        self.repo, self.shm, self.address = args.repo, args.shm, address
        self.loop = asyncio.new_event_loop()
        self.client = self.open()

    def open(self, **options):
        async def connect():
            return self.module.InferenceServerClient(self.address, **options)
        return Blocking(self.loop, connect())

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
