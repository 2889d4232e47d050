"""Tars are written by Python's tarfile, which is also the oracle."""

import io
import os
import tarfile

import numpy as np
import pytest

from data.tar_headers import DamagedTar, read_parts

LONG = "a" * 90 + "/" + "b" * 120 + ".jpg"
NAMES = ["a.jpg", "deep/er/a b.JPEG", "caf\u00e9/\u6c49.png", "caf\udce9.jpg", "x" * 99 + "/" + "y" * 60 + ".jpg", LONG]
FORMATS = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT}


def pack(path, names=NAMES, **options):
    with tarfile.open(path, "w", encoding="utf-8", errors="surrogateescape", **options) as tar:
        folder = tarfile.TarInfo("deep")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for number, name in enumerate(names):
            entry = tarfile.TarInfo(name)
            entry.size = 300 * number
            tar.addfile(entry, io.BytesIO(bytes([number]) * entry.size))


@pytest.mark.parametrize("kind", FORMATS)
def test_names_places_and_sizes_are_those_that_tarfile_finds(tmp_path, kind):
    path = tmp_path / "a.tar"
    pack(path, format=FORMATS[kind], pax_headers={"comment": "of all"} if kind == "pax" else None)
    with tarfile.open(path, encoding="utf-8", errors="surrogateescape") as tar:
        expected = [(os.fsencode(one.name), one.offset_data, one.size) for one in tar if one.isreg()]
    assert [tuple(part) for part in read_parts(path)] == expected and len(expected) == len(NAMES)
    content = path.read_bytes()
    for number, part in enumerate(read_parts(path)):
        assert content[part.offset : part.offset + part.size] == bytes([number]) * (300 * number)


def test_old_headers_without_a_magic_are_read(tmp_path):
    path = tmp_path / "a.tar"
    pack(path, ["a.jpg"], format=tarfile.USTAR_FORMAT)
    content = bytearray(path.read_bytes())
    header = content[512:1024]
    header[257:265], header[148:156] = bytes(8), b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    content[512:1024] = header
    path.write_bytes(content)
    assert [part.name for part in read_parts(path)] == [b"a.jpg"]


def test_sizes_beyond_octal_digits_are_read(tmp_path):
    entry = tarfile.TarInfo("a.jpg")
    entry.size = 1 << 34
    for kind in FORMATS.values():
        path = tmp_path / "a.tar"
        path.write_bytes(entry.tobuf(kind))
        os.truncate(path, (1 << 34) + 4096)
        assert [part.size for part in read_parts(path)] == [1 << 34]


@pytest.mark.parametrize(
    ("length", "reason"), [(0, "truncated"), (700, "truncated"), (3000, "truncated"), (1536, "truncated")]
)
def test_a_tar_that_ends_too_early_is_named(tmp_path, length, reason):
    path = tmp_path / "a.tar"
    pack(path)
    os.truncate(path, length)
    with pytest.raises(DamagedTar, match=f"a.tar: {reason}"):
        list(read_parts(path))


@pytest.mark.parametrize("damage", ["zeros to the end", "a lone block of zeros", "joined", "a long end"])
def test_a_tar_that_goes_on_after_its_end_is_named(tmp_path, damage):
    path = tmp_path / "a.tar"
    pack(path)
    content, second = path.read_bytes(), list(read_parts(path))[1]
    end = {
        # As where a download stopped whose file had been made at its whole length.
        "zeros to the end": content[: second.offset - 512] + bytes(2 << 20),
        "a lone block of zeros": content[: second.offset - 512] + bytes(512) + content[second.offset - 512 :],
        "joined": content + content,
        "a long end": content + bytes((1 << 20) + 512),
    }
    path.write_bytes(end[damage])
    with pytest.raises(DamagedTar, match=f"a.tar: ends at byte .* of {len(end[damage])}; copy it again"):
        list(read_parts(path))


def test_a_record_of_a_megabyte_ends_a_tar(tmp_path):
    path = tmp_path / "a.tar"
    pack(path, ["a.jpg"])
    os.truncate(path, 1 << 20)
    assert [part.name for part in read_parts(path)] == [b"a.jpg"]


@pytest.mark.parametrize("kind", [tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_no_bytes_follow_folders_pipes_and_devices_whatever_their_size(tmp_path, kind):
    folder = tarfile.TarInfo("folder")
    folder.type, folder.size = kind, 4096
    (tmp_path / "a.tar").write_bytes(folder.tobuf() + tarfile.TarInfo("a.jpg").tobuf() + bytes(1024))
    with tarfile.open(tmp_path / "a.tar") as tar:
        expected = [(os.fsencode(one.name), one.offset_data, one.size) for one in tar if one.isreg()]
    assert [tuple(part) for part in read_parts(tmp_path / "a.tar")] == expected == [(b"a.jpg", 1024, 0)]


@pytest.mark.parametrize("field", [b"00000001000\0", b"1000\0junkjun", b" 1000 \0     ", b"1000        "])
def test_sizes_end_where_tarfile_ends_them(tmp_path, field):
    header = bytearray(tarfile.TarInfo("a.jpg").tobuf())
    header[124:136], header[148:156] = field, b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a.tar").write_bytes(header + bytes(4096))
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert [part.size for part in read_parts(tmp_path / "a.tar")] == [tar.next().size] == [0o1000]


def test_a_damaged_header_is_named_with_its_place(tmp_path):
    path = tmp_path / "a.tar"
    pack(path)
    content = bytearray(path.read_bytes())
    content[520] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedTar, match="a.tar: damaged: no tar header at byte 512"):
        list(read_parts(path))


@pytest.mark.parametrize("field", [b"-0000001000\0", b"00000x00000\0"])
def test_sizes_that_lead_back_or_nowhere_are_refused(tmp_path, field):
    header = bytearray(tarfile.TarInfo("a.jpg").tobuf())
    header[124:136], header[148:156] = field, b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a.tar").write_bytes(header + bytes(4096))
    with pytest.raises(DamagedTar, match="no tar header at byte 0"):
        list(read_parts(tmp_path / "a.tar"))


@pytest.mark.parametrize(
    "note",
    [
        b"0 path=b\n",
        b"1 path=b\n",
        b"9 size=-9\n",
        b"9 size=xy\n",
        b"999999999999 path=b\n",
        b"511 size=" + b"9" * 501 + b"\n",
    ],
)
def test_notes_that_lead_nowhere_end(tmp_path, note):
    entry = tarfile.TarInfo("note")
    entry.type, entry.size = tarfile.XHDTYPE, len(note)
    content = (
        entry.tobuf(tarfile.USTAR_FORMAT) + note.ljust(512, b"\0") + tarfile.TarInfo("a.jpg").tobuf() + bytes(1024)
    )
    (tmp_path / "a.tar").write_bytes(content)
    assert [(part.offset, part.size) for part in read_parts(tmp_path / "a.tar")] == [(1536, 0)]


def test_what_cannot_be_read_in_place_is_refused_with_a_remedy(tmp_path):
    with pytest.raises(DamagedTar, match="none.tar: No such file"):
        list(read_parts(tmp_path / "none.tar"))
    (tmp_path / "a.jpg").write_bytes(np.random.default_rng(0).bytes(5000))
    with tarfile.open(tmp_path / "b.tar", "w:gz") as tar:
        tar.add(tmp_path / "a.jpg", "a.jpg")
    with pytest.raises(DamagedTar, match="must not be compressed"):
        list(read_parts(tmp_path / "b.tar"))
    (tmp_path / "link.jpg").symlink_to("a.jpg")
    with tarfile.open(tmp_path / "c.tar", "w") as tar:
        tar.add(tmp_path / "link.jpg", "link.jpg")
    with pytest.raises(DamagedTar, match="link.jpg is a link; .*--dereference"):
        list(read_parts(tmp_path / "c.tar"))
