"""Queues and tasks as declared, and how they are found again."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from taskyard.shared import ConfigurationError, Context, NotFound, Queue
from taskyard.shared.brokers import GROUP, connect
from taskyard.shared.catalogue import load_queues, select_queues
from taskyard.shared.task import declared_queues, find_declared


def test_a_task_is_still_its_function() -> None:
    """A declared function can be called and read as before."""
    queue = Queue("decl")

    @queue.task
    def double(n: int) -> int:
        """Twice as much."""
        return 2 * n

    assert double(3) == 6
    assert double.__doc__ == "Twice as much."
    assert double.__name__ == "double"
    assert double.__wrapped__(3) == 6


def test_names_of_tasks() -> None:
    """The full name is the queue's and the task's; inside its queue the short one suffices."""
    queue = Queue("decl")

    @queue.task(name="import", ttr="5m")
    async def import_(ctx: Context) -> None: ...

    assert import_.name == "decl.import"
    assert queue.find("import") is import_
    assert queue.find("decl.import") is import_
    assert import_.ttr_s == 300
    with pytest.raises(NotFound, match=r"no task 'export' \(known: import\)"):
        queue.find("export")


def test_modes_follow_the_function() -> None:
    """`async def` runs on the loop, `def` in a thread, both in a process; else it is an error."""
    queue = Queue("decl")
    assert queue.add(lambda: None, name="a").mode == "thread"

    async def handler() -> None: ...

    assert queue.add(handler).mode == "async"
    assert queue.add(handler, name="c", mode="process").mode == "process"
    in_child = queue.add(lambda: None, name="d", mode="process")
    assert (in_child.mode, in_child.asynchronous) == ("process", False)
    with pytest.raises(ConfigurationError, match="mode 'thread'"):
        queue.add(handler, name="b", mode="thread")
    assert "decl.b" not in queue.tasks


def test_a_name_is_taken_once() -> None:
    """Two tasks of one name in a queue are a mistake."""
    queue = Queue("decl")
    queue.add(lambda: None, name="a")
    with pytest.raises(ConfigurationError, match="two tasks named 'a'"):
        queue.add(lambda: None, name="a")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"type": "stream"}, "type 'stream'"),
        ({"concurrency": 0}, "concurrency 0"),
        ({"lookahead": -1}, "lookahead -1"),
        ({"max_deliveries": 0}, "max_deliveries 0"),
        ({"ttr": 0}, "ttr 0"),
    ],
)
def test_wrong_queue_options_are_named(options: dict, words: str) -> None:
    """A queue that makes no sense says why."""
    with pytest.raises(ConfigurationError, match=words):
        Queue("decl", **options)
    with pytest.raises(ConfigurationError, match="queue name"):
        Queue("Not.A.Name")


def test_declared_queues_are_known_while_they_live() -> None:
    """Errors list the queues of this process; a queue that is gone is not listed."""
    queue = Queue("decl-alive")
    task = queue.add(lambda: None, name="a")
    assert "decl-alive" in declared_queues()
    assert find_declared("decl-alive", "a") is task
    with pytest.raises(NotFound, match="no task 'b'"):
        find_declared("decl-alive", "b")
    del queue, task
    import gc

    gc.collect()
    assert "decl-alive" not in declared_queues()
    with pytest.raises(NotFound, match="no queue 'decl-alive'"):
        find_declared("decl-alive", "a")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a module that is importable for one test, and return its name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made: list[str] = []

    def write(text: str, name: str = "decl_module") -> str:
        (tmp_path / f"{name}.py").write_text(text)
        made.append(name)
        return name

    yield write
    for name in made:
        sys.modules.pop(name, None)


def test_queues_are_found_in_modules(module) -> None:
    """Every queue that is a module attribute is found, also an imported one, once."""
    first = module("from taskyard.shared import Queue\na = Queue('a')\nalias = a\nother = 3\n")
    second = module(
        "from decl_module import a\nfrom taskyard.shared import Queue\nb = Queue('b')\n", "decl_two"
    )
    found = load_queues([first, second])
    assert sorted(found) == ["a", "b"]
    assert [queue.name for queue in select_queues(found, "all")] == ["a", "b"]
    assert [queue.name for queue in select_queues(found, " b , a,b")] == ["b", "a"]
    with pytest.raises(ConfigurationError, match="unknown queue 'nope'; declared are a, b"):
        select_queues(found, "nope")
    with pytest.raises(ConfigurationError, match="unknown queue"):
        select_queues(found, " , ")


def test_two_queues_of_one_name_are_refused(module) -> None:
    """A name that means two things is an error that names it."""
    name = module("from taskyard.shared import Queue\na = Queue('a')\nb = Queue('a')\n")
    with pytest.raises(ConfigurationError, match="two queues are named 'a'"):
        load_queues([name])


def test_a_module_without_queues_is_refused(module) -> None:
    """A module that declares nothing is not quietly accepted."""
    with pytest.raises(ConfigurationError, match="declares no Queue"):
        load_queues([module("x = 1\n")])
    with pytest.raises(ConfigurationError, match="'decl_nowhere' cannot be imported"):
        load_queues(["decl_nowhere"])


def test_a_broken_import_inside_a_module_is_not_hidden(module) -> None:
    """An error of the module's own is shown as it is."""
    with pytest.raises(ModuleNotFoundError, match="decl_missing"):
        load_queues([module("import decl_missing\n")])


def test_adapters_are_named_by_entry_points_only() -> None:
    """The scheme of the URL chooses the adapter; an unknown one lists those installed (ZS-19)."""
    schemes = {point.name for point in entry_points(group=GROUP)}
    assert {"amqp", "amqps", "sqlite", "memory"} <= schemes
    with pytest.raises(ConfigurationError, match=r"scheme 'kafka' \(installed: .*amqp.*sqlite"):
        connect("kafka://host")


def test_no_adapter_is_named_in_code() -> None:
    """Outside the adapters themselves nothing imports one: they come in by entry point only."""
    root = Path(__file__).resolve().parents[2]
    sources = [
        path for path in root.glob("*/src/taskyard/*/**/*.py") if "adapters" not in path.parts
    ]
    assert len(sources) > 30
    naming = [path.name for path in sources if "taskyard.shared.adapters" in path.read_text()]
    assert not naming
