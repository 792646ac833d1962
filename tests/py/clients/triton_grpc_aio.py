"""tritonclient.grpc.aio."""
import asyncio

import grpc
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from blocking import AioCases
from common import arguments, run
from triton_grpc_cases import GrpcCases


class GrpcAio(AioCases, GrpcCases):
    module = triton

    def pause(self, seconds):
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def stub_infer(self, request):
        async def call():
            return await self.client.inner._client_stub.ModelInfer(request, timeout=60)
        return self.loop.run_until_complete(call())

    def stream(self, requests, headers=None, compression_algorithm=None, in_turn=False):
        answered = asyncio.Semaphore(0)

        async def sent():
            for model, inputs, options in requests:
                yield {"model_name": model, "inputs": inputs} | options
                if in_turn:
                    await answered.acquire()

        async def talk():
            answers, client = [], triton.InferenceServerClient(self.address)
            stream = client.stream_infer(sent(), stream_timeout=80, headers=headers, compression_algorithm=compression_algorithm)
            try:
                async for answer in stream:
                    answers.append(answer)
                    answered.release()
            except grpc.RpcError as error:
                answers.append((None, InferenceServerException(error.details(), status=str(error.code()))))
                answered.release()
            await client.close()
            return answers
        return self.loop.run_until_complete(talk())


if __name__ == "__main__":
    args = arguments()
    run(GrpcAio(args, args.grpc).cases(), args.only)
