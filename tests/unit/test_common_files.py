"""Where secrets and configs appear in a container."""

import pytest

from pyswarm.common.files import MAX_NAME_BYTES, FileKind, container_path, file_keys, file_uses
from pyswarm.common.types import ConfigReference, ContainerSpec, FileTarget, SecretReference


@pytest.mark.parametrize(
    ("kind", "target", "path"),
    [
        ("secret", "token", "/run/secrets/token"),
        ("secret", "tls/key.pem", "/run/secrets/tls/key.pem"),
        ("secret", "./a//b", "/run/secrets/a/b"),
        ("secret", "/etc/app/key", "/etc/app/key"),
        ("secret", "//etc/key", "/etc/key"),
        ("secret", "/run/secrets/token", "/run/secrets/token"),
        ("secret", "schlüssel 1", "/run/secrets/schlüssel 1"),
        ("secret", "..a", "/run/secrets/..a"),
        ("config", "app.conf", "/app.conf"),
        ("config", "/etc/app.conf", "/etc/app.conf"),
        ("config", "etc/app.conf", "/etc/app.conf"),
    ],
)
def test_targets(kind: FileKind, target: str, path: str) -> None:
    assert container_path(kind, target) == path


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("../shadow", '".."'),
        ("a/../../b", '".."'),
        ("/run/secrets/../x", '".."'),
        ("..", '".."'),
        ("", "folder"),
        (".", "folder"),
        ("/", "folder"),
        ("//", "folder"),
        ("/run/secrets", "folder"),
        ("/run/secrets/.", "folder"),
        ("dir/", "folder"),
        ("a\0b", "shown"),
        ("a\nb", "shown"),
        ("a\ud800b", "shown"),
        ("x" * (MAX_NAME_BYTES + 1), "too long"),
        ("ü" * 128, "too long"),
        ("a/" * 2100 + "b", "too long"),
    ],
)
def test_targets_that_name_no_file_below_their_folder(target: str, reason: str) -> None:
    for kind in ("secret", "config"):
        if (kind, target) != ("config", "/run/secrets") and not (
            kind == "config" and target.endswith("secrets/.")
        ):
            with pytest.raises(ValueError, match=reason):
                container_path(kind, target)


def test_what_a_container_uses() -> None:
    spec = ContainerSpec(
        configs=(ConfigReference(file=FileTarget(name="/c"), config_id="c1", config_name="conf"),),
        secrets=(SecretReference(file=FileTarget(name="s", uid="7"), secret_id="s1", secret_name="sec"),),
    )
    secret, config = file_uses(spec)
    assert (secret.kind, secret.id, secret.name, secret.path, secret.file.uid) == (
        "secret", "s1", "sec", "/run/secrets/s", "7",
    )  # fmt: skip
    assert (config.kind, config.id, config.name, config.path) == ("config", "c1", "conf", "/c")
    assert file_keys(spec) == {("secret", "s1"), ("config", "c1")}
    assert file_keys(ContainerSpec()) == frozenset()
