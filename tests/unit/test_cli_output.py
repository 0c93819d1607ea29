"""Tables, sorting, filters, and progress decisions of the command line."""

import json

import pytest

from pyswarm.cli import output, progress, service_options
from pyswarm.cli.errors import CliError, Reported, UsageError


def test_columns_are_padded_as_docker_pads_them(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"ID": "1", "Name": "a-name-of-some-length", "Ports": ""}, {"ID": "22", "Name": "b", "Ports": ""}]
    output.list_rows(rows, {"ID": "ID", "Name": "NAME", "Ports": "PORTS"}, None, ["ID", "Name", "Ports"])
    assert capsys.readouterr().out == (
        "ID        NAME                    PORTS\n"
        "1         a-name-of-some-length   \n"
        "22        b                       \n"
    )


def test_a_table_template_has_headings_and_a_plain_one_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    columns = {"ID": "ID", "Name": "NAME"}
    output.list_rows([{"ID": "1", "Name": "web"}], columns, r"table {{.Name}}\t{{.ID}}", ["ID"])
    output.list_rows([{"ID": "1", "Name": "web"}], columns, "{{.Name}}={{.ID}}", ["ID"])
    output.list_rows([{"ID": "1", "Name": "web"}], columns, "json", ["ID"])
    assert capsys.readouterr().out == 'NAME      ID\nweb       1\nweb=1\n{"ID":"1","Name":"web"}\n'


def test_an_unknown_column_is_named() -> None:
    with pytest.raises(CliError, match="Banana"):
        output.list_rows([], {"ID": "ID"}, "{{.Banana}}", ["ID"])


def test_names_sort_by_their_numbers() -> None:
    assert sorted(["web.10", "web.9", "db.1"], key=output.natural) == ["db.1", "web.9", "web.10"]


def test_filters() -> None:
    assert output.parse_filters(["name=web", "label=a=b", "name=db"]) == {"name": ["web", "db"], "label": ["a=b"]}
    with pytest.raises(UsageError, match="banana"):
        output.parse_filters(["banana"])


def test_networks_in_both_forms() -> None:
    assert service_options.network_option("app") == ("app", [])
    assert service_options.network_option("name=app,alias=x,alias=y") == ("app", ["x", "y"])
    with pytest.raises(CliError, match="--network driver-opt is not supported"):
        service_options.network_option("name=app,driver-opt=a=b")
    for wrong in ("alias=x", "name=app,alias=", "name=app,colour=red"):
        with pytest.raises(UsageError, match=r'invalid argument ".*" for "--network" flag'):
            service_options.network_option(wrong)


def test_environment_takes_values_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "1")
    monkeypatch.delenv("GONE", raising=False)
    assert service_options.environment(("A=1", "HERE", "GONE", "B=")) == ["A=1", "HERE=1", "B="]


def task(slot: int, state: str, desired: str = "running", node: str = "n1") -> dict[str, object]:
    return {
        "ID": f"{slot}{state}",
        "Slot": slot,
        "NodeID": node,
        "DesiredState": desired,
        "Status": {"State": state},
    }


def test_the_wanted_task_of_a_slot_counts_and_of_two_the_one_behind() -> None:
    old, new = task(1, "running", "shutdown"), task(1, "starting")
    assert progress._by_slot([old, new], {"n1"}) == {1: new}
    assert progress._by_slot([new, old], {"n1"}) == {1: new}
    both = [task(1, "running"), task(1, "preparing")]
    assert progress._by_slot(both, {"n1"})[1]["Status"]["State"] == "preparing"


def test_tasks_of_lost_nodes_do_not_count() -> None:
    assert progress._by_slot([task(1, "running", node="gone"), task(2, "pending", node="")], {"n1"}).keys() == {2}


def test_a_task_that_waits_shows_why_the_one_before_it_ended(capsys: pytest.CaptureFixture[str]) -> None:
    rejected = {**task(1, "rejected", "shutdown"), "CreatedAt": "2024-01-01T00:00:02Z"}
    rejected["Status"] = {"State": "rejected", "Err": "No such image: nowhere:1"}
    older = {**task(1, "failed", "shutdown"), "CreatedAt": "2024-01-01T00:00:01Z"}
    older["Status"] = {"State": "failed", "Err": "task: non-zero exit (1)"}
    service = {"Spec": {"Mode": {"Replicated": {"Replicas": 1}}}}
    display = progress.Display(quiet=False)
    assert not progress._show(service, [rejected, older, task(1, "pending", "ready")], {"n1"}, {}, display)
    assert progress._show(service, [rejected, older, task(1, "running")], {"n1"}, {}, display)
    assert capsys.readouterr().out == (
        "overall progress: 0 out of 1 tasks\n"
        "1/1: No such image: nowhere:1\n"
        "overall progress: 1 out of 1 tasks\n"
        "1/1: running\n"
    )


def test_a_large_service_shows_what_keeps_most_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    tasks = [task(slot, "pending") for slot in range(1, 31)]
    for number, waiting in enumerate(tasks):
        waiting["Status"] = {"State": "pending", "Err": "no address left" if number else "no suitable node"}
    service = {"Spec": {"Mode": {"Replicated": {"Replicas": 30}}}}
    assert not progress._show(service, tasks, {"n1"}, {}, progress.Display(quiet=False))
    assert capsys.readouterr().out == "overall progress: 0 out of 30 tasks\nwaiting: 29 tasks: no address left\n"


def test_other_hosts_texts_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "h1\x1b[2J\x9b1m\nh2 \u202e\ud800"
    written = "h1\\u001b[2J\\u009b1m\\u000ah2 \\u202e\\ud800"
    columns = {"Hostname": "HOSTNAME", "ID": "ID"}
    output.list_rows([{"Hostname": evil, "ID": "1"}], columns, None, ["ID", "Hostname"])
    assert capsys.readouterr().out.splitlines()[1:] == [f"1         {written}"]
    output.list_rows([{"Hostname": evil, "ID": "1"}], columns, "{{.Hostname}}", ["ID"])
    assert capsys.readouterr().out == written.replace("\\u000a", "\n") + "\n"
    output.inspect(["x"], lambda _ref: {"Hostname": evil}, None, "node")
    assert json.loads(capsys.readouterr().out) == [{"Hostname": evil}]
    with pytest.raises(Reported):
        output.fail_with(["\x1b[2J"])
    assert capsys.readouterr().err == "\\u001b[2J\n"
    display = progress.Display(quiet=False)
    display.set("1/1", "\x1b[2J\nx")
    assert capsys.readouterr().out == "1/1: \\u001b[2J\\u000ax\n"
