"""The part of Go's templates that --format understands."""

import pytest

from pyswarm.cli.template import Template, TemplateError

NODE = {
    "ID": "abc",
    "Spec": {"Labels": {"tier": "1", "disk": "ssd"}, "Role": "worker"},
    "Names": ["a", "b"],
    "VirtualIPs": [{"Addr": "10.0.1.9/24", "Of": {"Network": "app"}}],
    "Count": 3,
    "Leader": True,
    "Off": False,
}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{.ID}}", "abc"),
        ("{{ .ID }}: {{.Spec.Role}}", "abc: worker"),
        ("{{json .Spec}}", '{"Labels":{"tier":"1","disk":"ssd"},"Role":"worker"}'),
        ("{{json .Names}}", '["a","b"]'),
        ("{{.ID | upper}}", "ABC"),
        ("{{upper .ID}}-{{title .Spec.Role}}", "ABC-Worker"),
        ('{{join .Names ", "}}', "a, b"),
        ('{{index .Spec.Labels "disk"}}', "ssd"),
        ("{{index .Names 1}}", "b"),
        ("{{len .Names}}", "2"),
        ("{{(index .VirtualIPs 0).Addr}}", "10.0.1.9/24"),
        ("{{ ((index .VirtualIPs 0).Of).Network | upper }}", "APP"),
        ("{{print (index .Names 0) .ID}}", "aabc"),
        ("{{if .Leader}}yes{{else}}no{{end}}", "yes"),
        ("{{if .Off}}yes{{else}}no{{end}}", "no"),
        ('{{if eq .Spec.Role "worker"}}w{{end}}', "w"),
        ('{{if (ne .Spec.Role "worker")}}m{{else}}w{{end}}', "w"),
        ("{{range .Names}}[{{.}}]{{end}}", "[a][b]"),
        ("{{range .Names}}{{$.ID}}{{.}} {{end}}", "abca abcb "),
        ("{{range .Missing}}x{{else}}none{{end}}", "none"),
        ("{{with .Spec}}{{.Role}}{{end}}", "worker"),
        ("{{.Leader}} {{.Count}} {{.Missing}}", "true 3 <no value>"),
        ("{{.Names}}", "[a b]"),
        ("{{.Spec.Labels}}", "map[disk:ssd tier:1]"),
        (r"{{.ID}}\t{{.Count}}", "abc\t3"),
        ("a {{- .ID -}} b", "aabcb"),
        ("{{/* nothing */}}plain", "plain"),
        ("", ""),
    ],
)
def test_what_is_printed(template: str, expected: str) -> None:
    assert Template(template).render(NODE) == expected


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{.ID", "unclosed action"),
        ("{{if .ID}}", "unexpected EOF"),
        ("{{end}}", "unexpected {{end}}"),
        ("{{else}}", "unexpected {{else}}"),
        ("{{banana .ID}}", 'function "banana" not defined'),
        ("{{}}", "missing value"),
        ("{{.ID.Name}}", "can't evaluate field Name"),
        ("{{(len .Names}}", "unclosed left paren"),
        ("{{(len .Names).Addr}}", "can't evaluate field Addr"),
        ("{{join .Names}}", "wrong arguments"),
        ("{{index .Names 7}}", "index out of range"),
    ],
)
def test_what_cannot_be_read_is_one_line(template: str, says: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(template).render(NODE)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
