"""What a store promises: whole results or none, whoever writes and whatever breaks."""

import json
import os
import threading

import pytest
from attractor_pack.attractor.errors import AttractorError
from attractor_pack.studio.store import Store

KEY, OTHER = "a" * 64, "b" * 64


def store_at(where):
    return Store(str(where))


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path):
    where = tmp_path / "store" if request.param == "folder" else f"memory://{tmp_path.name}/{request.node.name[:20]}"
    return store_at(where)


def test_what_is_put_comes_back(store):
    assert store.record("runs", KEY) is None and list(store.keys("runs")) == []
    store.put("runs", KEY, {"report.json": b"{}", "0000.png": b"picture"}, {"seconds": 3.0})
    record = store.record("runs", KEY)
    assert record["seconds"] == 3.0 and store.file(record, "0000.png") == b"picture"
    assert list(store.keys("runs")) == [KEY] and not store.has("runs", OTHER) and not store.has("subjects", KEY)
    with pytest.raises(AttractorError, match="has no concept"):
        store.file(record, "concept.safetensors")


def test_a_damaged_or_missing_file_is_never_taken_for_a_result(tmp_path):
    store = store_at(tmp_path)
    record = store.put("runs", KEY, {"a.json": b"{}", "b.json": b"[1]"}, {})
    path = next(tmp_path.glob("blobs/*/" + record["files"]["a.json"]))
    path.write_bytes(b"[]")
    with pytest.raises(AttractorError, match="damaged or gone"):
        store.file(record, "a.json")
    store.put("runs", KEY, {"a.json": b"{}", "b.json": b"[1]"}, {})
    assert store.file(record, "a.json") == b"{}", "what rotted with its size unchanged is written anew"
    path.unlink()
    assert store.record("runs", KEY) is None
    (tmp_path / "runs" / f"{KEY}.json").write_text('{"files": {"a.json": "../../x"}, "format": 1}')
    assert store.record("runs", KEY) is None
    (tmp_path / "runs" / f"{KEY}.json").write_text("{")
    assert store.record("runs", KEY) is None


def test_two_writers_never_mix_their_files(tmp_path):
    """Both write the same result, each with files of its own, again and again: any record read names one writer's."""
    def write(name):
        own = store_at(tmp_path)
        for i in range(60):
            own.put("runs", KEY, {"a.json": f"{name}{i}".encode(), "b.json": f"{name}{i}".encode()}, {"by": name})

    writers = [threading.Thread(target=write, args=(name,)) for name in "xy"]
    for writer in writers:
        writer.start()
    reader, seen = store_at(tmp_path), 0
    while any(writer.is_alive() for writer in writers):
        record = reader.record("runs", KEY)
        if record:
            assert reader.file(record, "a.json") == reader.file(record, "b.json")
            assert reader.file(record, "a.json").decode()[0] == record["by"]
            seen += 1
    assert seen


def test_a_link_out_of_the_store_is_refused(tmp_path):
    outside, store = tmp_path / "outside", store_at(tmp_path / "store")
    outside.mkdir()
    os.symlink(outside, tmp_path / "store" / "runs")
    with pytest.raises(AttractorError, match="leads out of the store by a symbolic link"):
        store.put("runs", KEY, {"a.json": b"{}"}, {})
    with pytest.raises(AttractorError, match="symbolic link"):
        store.record("runs", KEY)
    assert not list(outside.iterdir())


def test_a_store_that_goes_away_is_said_and_not_made_anew(tmp_path):
    store = store_at(tmp_path / "store")
    store.put("runs", KEY, {"a.json": b"{}"}, {})
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    with pytest.raises(AttractorError, match="the store is gone"):
        store.put("runs", OTHER, {"a.json": b"{}"}, {})
    assert not (tmp_path / "store").exists()
    with pytest.raises(AttractorError, match="no such kind of store"):
        store_at("nowhere://x")


def test_what_cannot_be_written_leaves_no_record(tmp_path):
    store = store_at(tmp_path)
    data = b"x" * 100
    record = store.put("runs", OTHER, {"a.bin": data}, {})
    blob = next(tmp_path.glob("blobs/*/*.bin"))
    blob.unlink()
    blob.parent.rmdir()
    (tmp_path / "blobs" / record["files"]["a.bin"][:2]).write_bytes(b"")  # a file where a folder must be made
    with pytest.raises(AttractorError, match="cannot be written"):
        store.put("runs", KEY, {"a.bin": data}, {})
    assert store.record("runs", KEY) is None and not list(tmp_path.glob("**/*.part"))
    assert json.loads((tmp_path / "runs" / f"{OTHER}.json").read_text())["files"]
