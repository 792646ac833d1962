"""An asyncio client whose calls wait, so that the cases of the other flavours fit it too."""
import functools
import inspect


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
