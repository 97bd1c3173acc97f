"""MLServer with the linear classifier, run inside its own environment: `mlserver_model.py GRPC_PORT HTTP_PORT`."""

import asyncio
import os
import sys

import mlserver
from linear import batch
from mlserver.codecs import NumpyCodec


class Linear(mlserver.MLModel):
    async def predict(self, payload):
        pixels = NumpyCodec.decode_input(payload.inputs[0])
        with open(os.environ["REFRAIN_TEST_REACHED"], "a") as lines:
            lines.write(f"{len(pixels)}\n")
        output = NumpyCodec.encode_output("probabilities", batch(pixels))
        return mlserver.types.InferenceResponse(id=payload.id, model_name=self.name, model_version=self.version, outputs=[output])


def settings(name, **batching):
    return mlserver.ModelSettings(
        name=name,
        implementation="mlserver_model.Linear",
        inputs=[mlserver.types.MetadataTensor(name="image", datatype="UINT8", shape=[-1, 32, 32, 3])],
        outputs=[mlserver.types.MetadataTensor(name="probabilities", datatype="FP32", shape=[-1, 10])],
        parameters=mlserver.settings.ModelParameters(version="1"),
        **batching,
    )


def main(grpc_port, http_port):
    server = mlserver.MLServer(
        mlserver.Settings(host="127.0.0.1", grpc_port=grpc_port, http_port=http_port, metrics_endpoint=None, parallel_workers=0)
    )
    asyncio.run(server.start([settings("linear"), settings("batched", max_batch_size=4, max_batch_time=0.2)]))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
