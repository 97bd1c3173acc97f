"""Health as callers read it, `grpc.health.v1`: asked once, or watched until the server serves."""

from grpc_health.v1 import health_pb2

CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
SECONDS = 30


def of(client, service=""):
    reply = client.call(CHECK, health_pb2.HealthCheckRequest(service=service), timeout=5)
    assert reply.code == "OK", reply
    return _status(reply.body)


def once_serving(client, service=""):
    """Watches until the server says that it serves: one that has just begun has not asked its model server yet."""
    watch = client.channel.unary_stream(WATCH)(health_pb2.HealthCheckRequest(service=service).SerializeToString(), timeout=SECONDS)
    for body in watch:
        if _status(body) == "SERVING":
            watch.cancel()
            return
    raise AssertionError("the watch ended before the server served")


def _status(body):
    return health_pb2.HealthCheckResponse.ServingStatus.Name(health_pb2.HealthCheckResponse.FromString(body).status)
