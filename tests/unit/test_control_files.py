"""What secrets, configs and references to them may say, and what of them leaves the managers."""

from typing import Any

import msgspec
import pytest

from pyswarm.common.errors import InvalidArgument
from pyswarm.common.files import CONFIG_LIMIT_BYTES, SECRET_LIMIT_BYTES
from pyswarm.common.types import (
    Config,
    ConfigReference,
    ConfigSpec,
    ContainerSpec,
    FileTarget,
    Secret,
    SecretReference,
    SecretSpec,
    timestamp,
)
from pyswarm.manager.control import replies
from pyswarm.manager.control.file_checks import check_file_spec, check_file_update, check_references

PAYLOAD = b"hunter2\x00\xff"
BAD_NAME = (
    "invalid name, only 64 [a-zA-Z0-9-_.] characters allowed, and the start and end character must be [a-zA-Z0-9]"
)


@pytest.mark.parametrize("name", ["a", "A1", "a.b-c_d", "x" * 64, "0", "a..b"])
def test_names(name: str) -> None:
    check_file_spec(SecretSpec(name=name, data=b"x"))
    check_file_spec(ConfigSpec(name=name, data=b"x"))


@pytest.mark.parametrize("name", ["-a", "a-", ".a", "a b", "x" * 65, "ä", "a/b", "a\n", "_"])
def test_bad_names(name: str) -> None:
    for spec in (SecretSpec(name=name, data=PAYLOAD), ConfigSpec(name=name, data=PAYLOAD)):
        with pytest.raises(InvalidArgument) as caught:
            check_file_spec(spec)
        assert str(caught.value) == BAD_NAME


def test_payloads_and_labels_have_limits() -> None:
    assert (SECRET_LIMIT_BYTES, CONFIG_LIMIT_BYTES) == (512_000, 1_024_000)
    for of, kind, limit in ((SecretSpec, "secret", 512_000), (ConfigSpec, "config", 1_024_000)):
        check_file_spec(of(name="a", data=b"x" * (limit - 1)))
        for data in (b"", b"x" * limit):
            with pytest.raises(InvalidArgument) as caught:
                check_file_spec(of(name="a", data=data))
            assert str(caught.value) == f"{kind} data must be larger than 0 and less than {limit} bytes"
        with pytest.raises(InvalidArgument, match="name must be provided"):
            check_file_spec(of(data=b"x"))
        with pytest.raises(InvalidArgument, match="a label must have a name"):
            check_file_spec(of(name="a", data=b"x", labels={"": "v"}))


def test_only_labels_can_be_updated() -> None:
    old = SecretSpec(name="a", data=PAYLOAD)
    check_file_update(old, SecretSpec(name="a", labels={"k": "v"}))
    check_file_update(old, SecretSpec(name="a", labels={"k": "v"}, data=PAYLOAD))
    for new in (SecretSpec(name="b"), SecretSpec(name="a", data=PAYLOAD + b"3"), SecretSpec(name="A")):
        with pytest.raises(InvalidArgument, match=r"^only updates to Labels are allowed$"):
            check_file_update(old, new)


def secret(name: str = "tok", target: str = "tok", id: str = "s1", **file: Any) -> SecretReference:
    return SecretReference(file=FileTarget(name=target, **file), secret_id=id, secret_name=name)


def config(name: str = "cfg", target: str = "/cfg", id: str = "c1", **file: Any) -> ConfigReference:
    return ConfigReference(file=FileTarget(name=target, **file), config_id=id, config_name=name)


def test_references_that_have_places_of_their_own() -> None:
    check_references(ContainerSpec())
    check_references(
        ContainerSpec(
            secrets=(
                secret(uid="1000", gid="4294967294", mode=0o400),
                secret("two", "tls/key", "s2", mode=0),
                secret("two", "tls/cert", "s2", mode=0o777),
                secret("two", "/etc/two", "s2"),
                secret("two", "tls.key", "s2"),
            ),
            configs=(config(), config("x", "/run/secrets/conf", "c2"), config("x", "/tls/key", "c2")),
        )
    )


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (ContainerSpec(secrets=(secret(id=""),)), "malformed secret reference"),
        (ContainerSpec(secrets=(secret(name=""),)), "malformed secret reference"),
        (ContainerSpec(configs=(config(id=""),)), "malformed config reference"),
        (
            ContainerSpec(secrets=(secret(target=""),)),
            "malformed file secret reference, invalid target file name provided",
        ),
        (
            ContainerSpec(configs=(config(target=""),)),
            "malformed file config reference, invalid target file name provided",
        ),
        (
            ContainerSpec(secrets=(secret(target="../x"),)),
            "invalid target '../x' of secret tok: \"..\" is not allowed in it",
        ),
        (
            ContainerSpec(secrets=(secret(target="a\nb"),)),
            "invalid target 'a\\nb' of secret tok: it has characters that cannot be shown",
        ),
        (
            ContainerSpec(secrets=(secret("a", "x"), secret("b", "x"))),
            "secret references 'a' and 'b' have a conflicting target: '/run/secrets/x'",
        ),
        (
            ContainerSpec(secrets=(secret("a", "x"), secret("b", "/run/secrets//x"))),
            "secret references 'a' and 'b' have a conflicting target: '/run/secrets/x'",
        ),
        (
            ContainerSpec(secrets=(secret("a", "x/y"), secret("b", "x.z"), secret("c", "x"))),
            "secret references 'c' and 'a' have a conflicting target: '/run/secrets/x'",
        ),
        (
            ContainerSpec(configs=(config("a", "x"), config("b", "/x"))),
            "config references 'a' and 'b' have a conflicting target: '/x'",
        ),
        (
            ContainerSpec(secrets=(secret("a", "/etc/x"),), configs=(config("b", "/etc/x"),)),
            "references to secret 'a' and config 'b' have a conflicting target: '/etc/x'",
        ),
        (
            ContainerSpec(secrets=(secret(uid="root"),)),
            "invalid uid 'root' of secret tok: it must be a number from 0 to 4294967294",
        ),
        (
            ContainerSpec(secrets=(secret(gid="4294967295"),)),
            "invalid gid '4294967295' of secret tok: it must be a number from 0 to 4294967294",
        ),
        (
            ContainerSpec(configs=(config(uid="-1"),)),
            "invalid uid '-1' of config cfg: it must be a number from 0 to 4294967294",
        ),
        (
            ContainerSpec(secrets=(secret(uid="\u0661"),)),
            "invalid uid '\\u0661' of secret tok: it must be a number from 0 to 4294967294",
        ),
        (
            ContainerSpec(secrets=(secret(mode=0o4755),)),
            "invalid mode 0o4755 of secret tok: it must be from 0000 to 0777",
        ),
        (
            ContainerSpec(configs=(config(mode=-1),)),
            "invalid mode -0o1 of config cfg: it must be from 0000 to 0777",
        ),
    ],
)
def test_bad_references(spec: ContainerSpec, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_references(spec)
    assert str(caught.value) == text


def test_a_payload_shows_nowhere() -> None:
    whole = Secret(id="s", spec=SecretSpec(name="tok", labels={"k": "v"}, data=PAYLOAD))
    assert "hunter2" not in f"{whole!r} {whole.spec!r} {whole}"
    sent = msgspec.msgpack.decode(replies.encoded(whole), type=Secret)
    assert sent == Secret(id="s", spec=SecretSpec(name="tok", labels={"k": "v"}))
    assert b"hunter2" not in replies.encoded(whole)
    assert whole.spec.data == PAYLOAD
    conf = Config(id="c", spec=ConfigSpec(name="conf", data=PAYLOAD))
    assert msgspec.msgpack.decode(replies.encoded(conf), type=Config) == conf


def test_a_list_goes_out_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    configs = [
        Config(id=f"c{n}", created_at=timestamp(1_700_000_000 + n // 2), spec=ConfigSpec(data=b"x" * 1000))
        for n in range(5)
    ]
    assert replies.page(configs, "") == ([replies.encoded(c) for c in configs], "")
    monkeypatch.setattr(replies, "PAGE_BYTES", 2500)
    pages, after = [], ""
    while True:
        objects, after = replies.page(configs, after)
        pages.append([msgspec.msgpack.decode(data, type=Config).id for data in objects])
        if not after:
            break
    assert pages == [["c0", "c1"], ["c2", "c3"], ["c4"]]
    _, after = replies.page(configs, "")
    rest, _ = replies.page([configs[0], *configs[2:]], after)
    assert msgspec.msgpack.decode(rest[0], type=Config).id == "c2", "the last of a page may be gone"
    monkeypatch.setattr(replies, "PAGE_BYTES", 10)
    assert len(replies.page(configs, "")[0]) == 1, "an object larger than a page travels alone"
    assert replies.page([], "") == ([], "")
    for bad in ("banana", "2020-01-01T00:00:00 c1"):
        with pytest.raises(InvalidArgument):
            replies.page(configs, bad)
