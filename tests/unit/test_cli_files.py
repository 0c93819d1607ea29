"""``--secret`` and ``--config`` as users write them."""

import pytest
from click import Option

from pyswarm.cli.errors import UsageError
from pyswarm.cli.file_options import CONFIG, SECRET


def read(text: str) -> dict[str, object]:
    reference = SECRET.convert(text, None, None)
    assert CONFIG.convert(text, None, None) == {
        "File": reference["File"],
        "ConfigName": reference["SecretName"],
    }
    return {**reference["File"], "source": reference["SecretName"]}


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("tok", {}),
        ("source=tok", {}),
        ("src=tok,target=/etc/x", {"Name": "/etc/x"}),
        ("SOURCE=tok,uid=5,GID=6", {"UID": "5", "GID": "6"}),
        ("source=tok,mode=0400", {"Mode": 0o400}),
        ("source=tok,mode=0o400", {"Mode": 0o400}),
        ("source=tok,mode=0x100", {"Mode": 0o400}),
        ("source=tok,mode=0b100", {"Mode": 4}),
        ("source=tok,mode=256", {"Mode": 0o400}),
        ("source=tok,mode=0", {"Mode": 0}),
        ("source=tok,target=", {}),
        ('source=tok,"target=a,b"', {"Name": "a,b"}),
        ("source=tok,target=a=b", {"Name": "a=b"}),
    ],
)
def test_references(text: str, changes: dict[str, object]) -> None:
    assert read(text) == {"Name": "tok", "UID": "0", "GID": "0", "Mode": 0o444, "source": "tok", **changes}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "EOF"),
        ("target=x", "source is required"),
        ("source=", "source is required"),
        ("source=tok,target", "invalid field 'target' must be a key=value pair"),
        ("tok,target=x", "invalid field 'tok' must be a key=value pair"),
        ("source=tok,=x", "invalid field '=x' must be a key=value pair"),
        ("source=tok,colour=red", "invalid field in secret request: colour"),
        ("source=tok,mode=rw", 'invalid mode specified: strconv.ParseUint: parsing "rw": invalid syntax'),
        ("source=tok,mode=", 'invalid mode specified: strconv.ParseUint: parsing "": invalid syntax'),
        ("source=tok,mode=-1", 'invalid mode specified: strconv.ParseUint: parsing "-1": invalid syntax'),
        ("source=tok,mode=0999", 'invalid mode specified: strconv.ParseUint: parsing "0999": invalid syntax'),
        (
            "source=tok,mode=4294967296",
            'invalid mode specified: strconv.ParseUint: parsing "4294967296": value out of range',
        ),
    ],
)
def test_what_cannot_be_read(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        SECRET.convert(text, Option(["--secret"]), None)
    assert str(caught.value) == f'invalid argument "{text}" for "--secret" flag: {reason}'


def test_a_line_end_is_no_crash() -> None:
    with pytest.raises(UsageError):
        SECRET.convert("source=a\rb", Option(["--secret"]), None)
