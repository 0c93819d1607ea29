"""Positions in logs as messages."""

from pyswarm.common.logframes import Cursor, Mark
from pyswarm.proto.v1 import logs_pb2 as pb


def position_of(task_id: str, cursor: Cursor) -> pb.LogPosition:
    """The message for a cursor."""
    return pb.LogPosition(
        task_id=task_id,
        stdout_time=cursor.stdout.time,
        stdout_count=cursor.stdout.lines,
        stderr_time=cursor.stderr.time,
        stderr_count=cursor.stderr.lines,
    )


def cursor_of(position: pb.LogPosition) -> Cursor:
    """The cursor for a message; one that is not set is the beginning."""
    return Cursor(
        Mark(position.stdout_time, position.stdout_count), Mark(position.stderr_time, position.stderr_count)
    )
