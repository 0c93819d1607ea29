"""The client: one process, one connection, grpc.aio, the same for both stores."""

import itertools
import os
from pathlib import Path
from typing import Any

import grpc.aio
from aetcd.rpc import kv_pb2, rpc_pb2, rpc_pb2_grpc  # noqa: F401 - kv_pb2 must be loaded before rpc_pb2's messages

from pyswarm.common.tls import TLSIdentity
from storebench.child import serve_questions
from storebench.member import SERVICE, load


async def run(certs: Path) -> None:
    """Until standard input ends; each question names an address and what listens there."""
    identity = TLSIdentity.load(certs)
    channels: dict[str, grpc.aio.Channel] = {}
    numbers = itertools.count()

    async def answer(question: dict[str, Any]) -> dict[str, Any]:
        addr = question["addr"]
        channel = channels.get(addr)
        if channel is None:
            channel = channels[addr] = identity.channel(addr)
            await channel.channel_ready()
        if question["what"] == "leader":
            status = await rpc_pb2_grpc.MaintenanceStub(channel).Status(rpc_pb2.StatusRequest())
            return {"leads": status.leader != 0 and status.leader == status.header.member_id}
        if question["through"] == "etcd":
            stub = rpc_pb2_grpc.KVStub(channel)

            async def write(value: bytes) -> object:
                key = b"/bench/%d/%025d" % (os.getpid(), next(numbers))
                return await stub.Put(rpc_pb2.PutRequest(key=key, value=value), timeout=30)
        else:
            method = {"store": "Put", "raft": "Log"}[question["through"]]
            call = channel.unary_unary(f"/{SERVICE}/{method}")

            async def write(value: bytes) -> object:
                return await call(value, timeout=30)

        return await load(write, question["outstanding"], question["seconds"])

    await serve_questions(answer)
