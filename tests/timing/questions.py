"""Questions about a picture, as bytes, all of one length."""

from tritonclient.grpc import service_pb2 as pb

MODEL = "heavy_u8"


def question(picture):
    request = pb.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="image", datatype="UINT8", shape=[1, *picture.shape])
    request.raw_input_contents.append(picture.tobytes())
    return request.SerializeToString()
