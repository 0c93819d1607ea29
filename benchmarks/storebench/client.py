"""The client: one process, one connection, grpc.aio, the same for both stores."""

import asyncio
import base64
import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

import grpc.aio
import msgspec
from aetcd.rpc import kv_pb2, rpc_pb2, rpc_pb2_grpc  # noqa: F401 - kv_pb2 must be loaded before rpc_pb2's messages

from pyswarm.common.tls import TLSIdentity
from pyswarm.common.types import ConfigSpec
from pyswarm.proto.v1 import control_pb2, control_pb2_grpc
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
        elif question["through"] == "control":
            control = control_pb2_grpc.ControlStub(channel)

            async def write(value: bytes) -> object:
                spec = ConfigSpec(name=f"{os.getpid()}-{next(numbers)}", data=value)
                request = control_pb2.CreateRequest(spec=msgspec.msgpack.encode(spec))
                return await control.CreateConfig(request, timeout=30)
        else:
            method = {"store": "Put", "nothing": "Nothing"}[question["through"]]
            call = channel.unary_unary(f"/{SERVICE}/{method}")

            async def write(value: bytes) -> object:
                return await call(value, timeout=30)

        return await load(write, question["outstanding"], question["seconds"])

    await serve_questions(answer)


async def run_http(socket: str) -> None:
    """As ``run``, over Docker's API on a unix socket: each writer keeps one connection, as clients do."""
    numbers = itertools.count()

    async def answer(question: dict[str, Any]) -> dict[str, Any]:
        connections = [await asyncio.open_unix_connection(socket) for _ in range(question["outstanding"])]
        free = list(connections)

        async def write(value: bytes) -> object:
            reader, writer = connection = free.pop()
            name = f"{os.getpid()}-{next(numbers)}"
            body = json.dumps({"Name": name, "Data": base64.b64encode(value).decode()})
            writer.write(
                f"POST /v1.41/configs/create HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(re.search(rb"(?i)content-length: *(\d+)", head)[1])  # type: ignore[index]
            reply = await reader.readexactly(length)
            if not head.startswith(b"HTTP/1.1 201"):
                raise SystemExit(f"config create: {head!r} {reply!r}")
            free.append(connection)
            return reply

        figures = await load(write, question["outstanding"], question["seconds"])
        for _, writer in connections:
            writer.close()
        return figures

    await serve_questions(answer)
