import io
import tarfile
import tracemalloc

from ldm.data.members import Forward, read_members


def test_members_that_were_read_are_not_held():
    """`tarfile` keeps each in its attribute `members`, which is not documented; if it is renamed, this fails."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number in range(3000):
            archive.addfile(tarfile.TarInfo(f"{number:06d}.txt"))
    file.seek(0)
    tracemalloc.start()
    try:
        assert sum(not member.fault for member in read_members(Forward(file))) == 3000
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 500_000, "3000 members that are held take more than a megabyte"
