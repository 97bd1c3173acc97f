"""The KServe SDK's server with the linear classifier, run inside its own environment: `kserve_model.py GRPC_PORT HTTP_PORT`.

Its own start binds every address, so its servicer is put behind a server on the loopback interface; HTTP is left out.
"""

import asyncio
import os
import signal
import sys

import kserve
from grpc import aio
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from linear import CLASSES, batch


class Linear(kserve.Model):
    def __init__(self, name):
        super().__init__(name)
        self.ready = True

    async def get_input_types(self):
        return [{"name": "image", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}]

    async def get_output_types(self):
        return [{"name": "probabilities", "datatype": "FP32", "shape": [-1, CLASSES]}]

    async def predict(self, payload, headers=None, response_headers=None):
        pixels = payload.inputs[0].as_numpy()
        with open(os.environ["REFRAIN_TEST_REACHED"], "a") as lines:
            lines.write(f"{len(pixels)}\n")
        output = kserve.InferOutput("probabilities", [len(pixels), CLASSES], "FP32")
        output.set_data_from_numpy(batch(pixels), binary_data=False)
        return kserve.InferResponse(payload.id, self.name, [output])


async def serve(grpc_port, _http_port):
    models = kserve.ModelRepository()
    for name in ("linear", "batched"):
        models.update(Linear(name))
    servicer = InferenceServicer(DataPlane(model_registry=models), ModelRepositoryExtension(model_registry=models))
    server = aio.server(interceptors=[ExceptionToStatusInterceptor()])
    grpc_predict_v2_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    server.add_insecure_port(f"127.0.0.1:{grpc_port}")
    await server.start()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(serve(*map(int, sys.argv[1:])))
