"""tritonclient.http.aio."""
import asyncio

import numpy as np
import tritonclient.http.aio as triton

from blocking import AioCases
from common import arguments, run
from triton_http_cases import HttpCases


class HttpAio(AioCases, HttpCases):
    module = triton

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


if __name__ == "__main__":
    args = arguments()
    run(HttpAio(args, args.http).cases(), args.only)
