"""The user's own code in a run: what is copied, and when the copies are taken."""

from __future__ import annotations

import sys

import pytest

from flaxvision._own_code import code_of, copies_taken, import_function, take_copies, taking
from flaxvision.errors import UserError
from flaxvision.sweep.own_code import copies_in, copies_wanted, keep_code
from flaxvision.sweep.workers import surroundings, take_surroundings

pytestmark = pytest.mark.quick

NETWORK = "import {helper}\ndef small():\n    return {helper}.VALUE\n"


@pytest.fixture
def own(tmp_path, monkeypatch, request):
    """A folder, current and on the path, with a file, a package and a helper, called as nothing else is."""
    folder, tag = tmp_path / "author", f"t{abs(hash(request.node.name)) % 10**8}"
    (folder / f"pack_{tag}").mkdir(parents=True)
    (folder / f"helper_{tag}.py").write_text("VALUE = 1\n")
    (folder / f"net_{tag}.py").write_text(NETWORK.format(helper=f"helper_{tag}"))
    (folder / f"pack_{tag}" / "__init__.py").write_text("")
    (folder / f"pack_{tag}" / "net.py").write_text("from .deep import VALUE\ndef small():\n    return VALUE\n")
    (folder / f"pack_{tag}" / "deep.py").write_text("VALUE = 2\n")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    yield folder, tag
    take_copies(None)
    for name in [name for name in sys.modules if tag in name]:
        del sys.modules[name]


def test_copies_are_the_code(own, tmp_path, monkeypatch):
    folder, tag = own
    names = [f"net_{tag}.py:small", f"pack_{tag}.net:small"]
    codes = [code_of("model", name) for name in names]
    assert keep_code(names, tmp_path / "code") == []
    copies = copies_in(tmp_path / "code")
    assert copies is not None
    assert copies.files == {
        f"net_{tag}.py": f"net_{tag}.py",
        f"helper_{tag}": f"helper_{tag}.py",
        f"pack_{tag}": f"pack_{tag}/__init__.py",
        f"pack_{tag}.net": f"pack_{tag}/net.py",
        f"pack_{tag}.deep": f"pack_{tag}/deep.py",
    }
    assert copies_wanted(names, copies.folder, dict(zip(names, codes, strict=True))) == (None, [])

    for path in [*folder.glob("*.py"), *folder.glob("*/*.py")]:
        path.unlink()
    monkeypatch.chdir(tmp_path)
    wanted, notes = copies_wanted(names[:1], copies.folder)
    assert (wanted, notes) == (copies, [f"the code of {names[0]} is not here: the run's own copy is taken"])
    with taking(copies):
        assert [code_of("model", name) for name in names] == codes
        assert [import_function("model", name)() for name in names] == [1, 2]
        assert keep_code(names, copies.folder) == []  # onto themselves
        take_surroundings(surroundings())  # as in a process that has them already
        assert copies_taken() == copies
    assert copies_taken() is None
    with pytest.raises(UserError, match="cannot be imported"):
        import_function("model", names[0])
    assert str(copies.folder) not in sys.path


def test_a_change_is_told_and_the_copy_taken(own, tmp_path):
    folder, tag = own
    name = f"net_{tag}.py:small"
    recorded = {name: code_of("model", name)}
    keep_code([name], tmp_path / "code")
    (folder / f"net_{tag}.py").write_text("def small():\n    return 3\n")
    sys.modules.pop(f"net_{tag}.py")
    assert import_function("model", name)() == 3
    copies, notes = copies_wanted([name], tmp_path / "code", recorded)
    assert notes == [f"the code of {name} has changed: the run's own copy is taken"]
    with taking(copies):
        assert import_function("model", name)() == 1
    assert import_function("model", name)() == 3
    assert copies_wanted([name], tmp_path / "code") == (None, [])  # where it may have changed


def test_two_files_of_one_name_and_a_script(own, tmp_path, monkeypatch):
    folder, tag = own
    (folder / "other").mkdir()
    (folder / "other" / f"net_{tag}.py").write_text("def small():\n    return 5\n")
    names = [f"net_{tag}.py:small", f"other/net_{tag}.py:small"]
    for name in names:
        import_function("model", name)
    keep_code(names, tmp_path / "code")
    with taking(copies_in(tmp_path / "code")):
        assert [import_function("model", name)() for name in names] == [1, 5]

    script = folder / f"script_{tag}.py"
    script.write_text(f"import helper_{tag}\ndef small():\n    return helper_{tag}.VALUE + 6\n")
    main = type(sys)("__main__")
    main.__file__ = str(script)
    exec(script.read_text(), vars(main))
    monkeypatch.setitem(sys.modules, "__main__", main)
    keep_code(["__main__:small"], tmp_path / "script")
    assert copies_in(tmp_path / "script").files == {"__main__": script.name, f"helper_{tag}": f"helper_{tag}.py"}
    with taking(copies_in(tmp_path / "script")):
        assert import_function("model", "__main__:small")() == 7
        assert sys.modules["__main__"] is main
    del main.__file__
    assert keep_code(["__main__:small"], tmp_path / "notebook") == [
        "the code of __main__:small is not kept in the run: it lies in no file, such as that of a notebook"
    ]


def test_libraries_are_not_copied(tmp_path):
    import_function("optimizer", "optax:adabelief")
    assert keep_code(["optax:adabelief"], tmp_path / "code") == []
    assert copies_in(tmp_path / "code") is None
    assert not (tmp_path / "code").exists()


def test_a_damaged_index_is_one_line(tmp_path):
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot read .*index\.json .*: give a run whose code is whole"):
        copies_in(tmp_path)
