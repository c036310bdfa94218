from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cloud.health import Health

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def served(live: object) -> None:
    async def run() -> None:
        health, server = Health("a.B"), grpc.aio.server()
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await asyncio.wait_for(live(health, health_pb2_grpc.HealthStub(channel)), 60)  # type: ignore[operator]
        await server.stop(0)

    asyncio.run(run())


def test_the_whole_and_each_service_are_told_alike() -> None:
    async def live(health: Health, stub: health_pb2_grpc.HealthStub) -> None:
        async def said() -> list[int]:
            return [(await stub.Check(health_pb2.HealthCheckRequest(service=name))).status for name in ("", "a.B")]

        assert await said() == [NOT_SERVING] * 2
        health.tell(True)
        assert await said() == [SERVING] * 2
        health.tell(False)
        assert await said() == [NOT_SERVING] * 2
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await stub.Check(health_pb2.HealthCheckRequest(service="x"))
        assert unknown.value.code() == grpc.StatusCode.NOT_FOUND

    served(live)


def test_all_who_watch_are_told_also_when_one_has_left() -> None:
    async def live(health: Health, stub: health_pb2_grpc.HealthStub) -> None:
        health.tell(True)
        watches = [stub.Watch(health_pb2.HealthCheckRequest(service="a.B")) for _ in range(3)]
        assert [(await each.read()).status for each in watches] == [SERVING] * 3
        watches[0].cancel()
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == SERVING  # the cancellation has come before it
        health.tell(True)  # nothing new
        health.tell(False)
        assert [(await each.read()).status for each in watches[1:]] == [NOT_SERVING] * 2
        unknown = stub.Watch(health_pb2.HealthCheckRequest(service="x"))
        assert (await unknown.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        for each in (*watches, unknown):
            each.cancel()

    served(live)
