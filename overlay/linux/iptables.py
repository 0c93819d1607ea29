"""The engine's chain for rules of the host's owner, DOCKER-USER, in which the mesh's packets are let through.

The engine forwards nothing that it does not know, so three rules say that these are fine; what may come in through
the mesh is decided by the mesh's own table. They stand last in the chain, so that the owner's rules go first. An
engine that is restarted beneath running containers puts its own refusals before that chain: it is put first again.
The ``iptables`` program is used, as by the engine: only it knows in which of two places the host's rules are kept.
"""

import shutil
import subprocess
from collections.abc import Sequence

from pyswarm.overlay.errors import OverlayError
from pyswarm.overlay.mesh.names import DEVICE, ENTRY_MARK, ORIGIN_MARK

CHAIN = "DOCKER-USER"
#: From where it is entered.
ENTRANCE = "FORWARD"
_JUMP = f"-A {ENTRANCE} -j {CHAIN}"
RULES = (
    f"-i {DEVICE} -j ACCEPT",
    f"-o {DEVICE} -j ACCEPT",
    f"-m connmark --mark {ENTRY_MARK:#x}/{ENTRY_MARK | ORIGIN_MARK:#x} -j ACCEPT",
)
_END = f"-A {CHAIN} -j RETURN"
_PROGRAM = "iptables"
_LIMIT_S = 20.0


def plan_user_chain(listing: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The iptables commands that make ``wanted``, of all rules of ours, the last before the chain's end. Pure.
    ``listing`` is the chain as ``iptables -S`` prints it; nothing is done to a chain that is not there."""
    if f"-N {CHAIN}" not in listing:
        return []
    rules = [line for line in listing if line.startswith(f"-A {CHAIN} ")]
    end = rules.index(_END) if _END in rules else len(rules)
    ours = {f"-A {CHAIN} {rule}": rule for rule in RULES}
    present = [ours[line] for line in rules[:end] if line in ours]
    behind = [line for line in rules[end:] if line in ours]
    if sorted(present) == sorted(wanted) and not behind:
        return []
    # From the last on, so that the numbers of those before stay.
    commands = [f"-D {CHAIN} {n}" for n in range(len(rules), 0, -1) if rules[n - 1] in ours]
    place = end - len(present) + 1
    return commands + [f"-I {CHAIN} {place + n} {rule}" for n, rule in enumerate(wanted)]


def plan_entrance(listing: Sequence[str]) -> list[str]:
    """The iptables commands that have the chain entered before anything else. Pure. ``listing`` is FORWARD as
    ``iptables -S`` prints it."""
    rules = [line for line in listing if line.startswith(f"-A {ENTRANCE} ")]
    if rules[:1] == [_JUMP]:
        return []
    # First the new one, so that no packet finds none; then, from the last on, those there were.
    later = [n + 1 for n, rule in enumerate(rules, start=1) if rule == _JUMP]
    return [f"-I {ENTRANCE} 1 -j {CHAIN}", *(f"-D {ENTRANCE} {n}" for n in reversed(later))]


def keep_user_chain(wanted: bool) -> int:
    """Have the mesh's rules in the chain, or have none of them; how many commands that took. Blocking. Raises
    OverlayError."""
    if not wanted and shutil.which(_PROGRAM) is None:
        return 0
    done = _run("-S", CHAIN)
    if done.returncode:
        if not wanted:
            return 0
        # Flushed by another hand: the engine makes it only when it starts or makes a network.
        _carry_out([f"-N {CHAIN}", f"-A {CHAIN} -j RETURN"])
        done = _run("-S", CHAIN)
    commands = plan_user_chain(done.stdout.splitlines(), RULES if wanted else ())
    if wanted:
        commands += plan_entrance(_run("-S", ENTRANCE).stdout.splitlines())
    _carry_out(commands)
    return len(commands)


def _carry_out(commands: Sequence[str]) -> None:
    for command in commands:
        done = _run(*command.split())
        if done.returncode:
            raise OverlayError(f"iptables refused '{command}': {done.stderr.strip()[:200]}")


def _run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            [_PROGRAM, "-w", "5", *arguments],
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError as exc:
        raise OverlayError(f"the program {_PROGRAM} is not installed; published ports need it") from exc
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise OverlayError(f"iptables failed: {exc}") from exc
