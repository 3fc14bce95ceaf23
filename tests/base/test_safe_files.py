"""Files and folders are opened and made without following a link that someone else has put there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from comfyskill.base import safe_files
from comfyskill.base.cli import Exit, SkillError

MODES = ["rb", "r+b", "wb", "ab", "a+b", "xb"]
PRECIOUS = b"precious data of the user"


@pytest.fixture(params=["the system refuses links", "the entries are compared"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With O_NOFOLLOW, and as on a system that has none."""
    if request.param == "the entries are compared":
        monkeypatch.setattr(safe_files, "_NO_FOLLOW", 0)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of the user, outside of the folder that others have prepared."""
    (tmp_path / "prepared").mkdir()
    path = tmp_path / "victim"
    path.write_bytes(PRECIOUS)
    return path


def link(path: Path, target: Path) -> Path:
    try:
        path.symlink_to(target)
    except OSError:
        pytest.skip("this account may not make links")
    return path


def refused(error: pytest.ExceptionInfo[SkillError]) -> bool:
    return (error.value.code, error.value.exit) == ("unsafe_folder", Exit.UNSAFE)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("mode", MODES)
def test_a_link_to_a_file_is_not_opened(victim: Path, mode: str) -> None:
    path = link(victim.parent / "prepared" / "name", victim)
    with pytest.raises(SkillError) as error:
        safe_files.open_file(path, mode)
    assert refused(error)
    assert str(path) in error.value.message
    assert victim.name in error.value.message
    assert victim.read_bytes() == PRECIOUS
    assert path.is_symlink()


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("mode", ["wb", "ab", "a+b", "xb"])
def test_nothing_is_created_through_a_link_that_leads_nowhere(victim: Path, mode: str) -> None:
    absent = victim.parent / "absent"
    with pytest.raises(SkillError) as error:
        safe_files.open_file(link(victim.parent / "prepared" / "name", absent), mode)
    assert refused(error)
    assert not absent.exists()


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="the system has no such flag")
def test_a_link_that_appears_after_the_look_is_refused_by_the_system(
    victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = link(victim.parent / "prepared" / "name", victim)
    # The looks before the opening are too early to see it.
    monkeypatch.setattr(safe_files, "refuse_link", lambda _path: None)
    monkeypatch.setattr(safe_files, "_refuse_irregular", lambda *_: None)
    with pytest.raises(OSError):
        safe_files.open_file(path, "wb")
    assert victim.read_bytes() == PRECIOUS


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("mode", ["r+b", "wb", "ab", "a+b"])
def test_a_second_name_of_a_file_is_not_written_but_may_be_read(victim: Path, mode: str) -> None:
    path = victim.parent / "prepared" / "name"
    os.link(victim, path)
    with pytest.raises(SkillError) as error:
        safe_files.open_file(path, mode)
    assert refused(error)
    assert victim.read_bytes() == PRECIOUS
    with safe_files.open_file(path, "rb") as file:
        assert file.read() == PRECIOUS


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
@pytest.mark.parametrize("mode", ["rb", "wb", "a+b"])
def test_a_pipe_is_refused_at_once(tmp_path: Path, mode: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    script = (
        f"import sys; sys.path.insert(0, {str(Path(safe_files.__file__).parents[2])!r})\n"
        "import pathlib; from comfyskill.base import cli, safe_files\n"
        "try:\n"
        f"    safe_files.open_file(pathlib.Path({str(tmp_path / 'pipe')!r}), {mode!r})\n"
        "except cli.SkillError as error:\n"
        "    print(error.code)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "unsafe_folder", done.stderr


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SkillError) as error:
        safe_files.open_file(tmp_path, "rb")
    assert refused(error)


@pytest.mark.usefixtures("either")
def test_ordinary_files_are_opened_as_ever(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with safe_files.open_file(path, "ab") as file:
        file.write(b"one\n")
    with safe_files.open_file(path, "ab") as file:
        file.write(b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"
    with safe_files.open_file(path, "r+b") as file:
        file.truncate(4)
    with safe_files.open_file(path, "r", encoding="utf-8") as file:
        assert file.read() == "one\n"
    with safe_files.open_file(path, "wb") as file:
        file.write(b"3")
    assert path.read_bytes() == b"3"
    with pytest.raises(FileExistsError):
        safe_files.open_file(path, "xb")
    with pytest.raises(FileNotFoundError):
        safe_files.open_file(tmp_path / "absent", "rb")


def test_the_mask_of_the_user_decides_who_may_read(tmp_path: Path) -> None:
    with safe_files.open_file(tmp_path / "ours", "wb"), (tmp_path / "plain").open("wb"):
        pass
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_parts_have_names_that_the_tidying_knows(tmp_path: Path) -> None:
    from comfyskill.base import file_names

    made = [safe_files.create_part(tmp_path) for _ in range(3)]
    for _, file in made:
        file.write(b"half")
        file.close()
    assert len({path for path, _ in made}) == 3
    file_names.remove_parts(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("inside", [False, True], ids=["out of the folder", "within the folder"])
def test_a_folder_that_is_a_link_is_not_used(victim: Path, inside: bool) -> None:
    root = victim.parent / "prepared"
    target = (root if inside else victim.parent) / "target"
    target.mkdir()
    link(root / "run_0000", target)
    with pytest.raises(SkillError) as error:
        safe_files.make_folder(root, "run_0000")
    assert refused(error)
    with pytest.raises(SkillError):
        safe_files.make_folder(root, "run_0000", "sub")
    assert not list(target.iterdir())


def test_a_folder_is_not_made_at_the_end_of_a_dangling_link(victim: Path) -> None:
    root = victim.parent / "prepared"
    link(root / "run_0000", victim.parent / "absent")
    with pytest.raises(SkillError) as error:
        safe_files.make_folder(root, "run_0000")
    assert refused(error)
    assert not (victim.parent / "absent").exists()


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run_0000").write_bytes(b"")
    with pytest.raises(SkillError) as error:
        safe_files.make_folder(tmp_path, "run_0000")
    assert refused(error)


def test_names_do_not_lead_out(victim: Path) -> None:
    with pytest.raises(SkillError) as error:
        safe_files.make_folder(victim.parent / "prepared", "..", "beside")
    assert refused(error)
    assert not (victim.parent / "beside").exists()


def test_the_root_may_be_a_link_but_must_exist(victim: Path) -> None:
    """Who keeps outputs on a large disk links to it, and names the link."""
    root = link(victim.parent / "out", victim.parent / "prepared")
    assert safe_files.make_folder(root, "a", "b").is_dir()
    assert safe_files.make_folder(root, "a", "b") == root / "a" / "b"
    with pytest.raises(FileNotFoundError):
        safe_files.make_folder(victim.parent / "absent", "a")
    assert not (victim.parent / "absent").exists()


@pytest.mark.skipif(os.name != "nt", reason="junctions are of Windows")
def test_a_junction_is_a_link(victim: Path) -> None:
    (victim.parent / "target").mkdir()
    junction = victim.parent / "prepared" / "run_0000"
    subprocess.run(
        ["cmd", "/c", "mklink", "/J", str(junction), str(victim.parent / "target")],
        check=True,
        capture_output=True,
    )
    assert safe_files.is_link(junction)
