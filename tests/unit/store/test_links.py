"""Files that artifacts share: the disk holds them once, and each artifact stays whole without the others."""

from llmcf_cli.store.integrity import file_records, scrutinise
from llmcf_cli.store.links import link, share

BIG = 1 << 17


def filled(folder, **files):
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_large_files_of_the_same_content_are_one_and_others_are_left(tmp_path):
    base = filled(tmp_path / "base", same=b"a" * BIG, other=b"b" * BIG, small=b"c")
    now = filled(tmp_path / "now", same=b"a" * BIG, other=b"d" * BIG, small=b"c", renamed=b"b" * BIG)
    before = file_records(now)
    found = share(now, before, [(base, file_records(base))])
    one = {name: (now / name).samefile(base / name) for name in ("same", "other", "small")}
    assert one == {"same": True, "other": False, "small": False}
    assert (now / "renamed").samefile(base / "other")
    assert {name: record.sha256 for name, record in found.items()} == {n: r.sha256 for n, r in before.items()}
    assert sorted(path.name for path in now.iterdir()) == sorted(before), "nothing else is left"
    for path in base.iterdir():
        path.unlink()
    assert scrutinise(now, found, apart="") == []
    assert {name: record.mtime_ns for name, record in file_records(now).items()} == {
        name: record.mtime_ns for name, record in found.items()
    }


def test_without_links_files_are_copied_or_stay(tmp_path, monkeypatch):
    base, now = filled(tmp_path / "base", same=b"a" * BIG), filled(tmp_path / "now", same=b"a" * BIG)

    def refuse(self, target):
        raise OSError("no links here")

    monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    records = file_records(now)
    assert share(now, records, [(base, file_records(base))]) == records
    link(base / "same", now / "copy")
    assert (now / "copy").read_bytes() == (base / "same").read_bytes()
    assert not (now / "copy").samefile(base / "same")
