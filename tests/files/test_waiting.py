"""Waiting for other processes ends with their work, and says what to do where there is none."""

from ldm.files import waiting


def test_it_ends_once_all_parts_are_there_and_speaks_once_where_none_comes_for_long(monkeypatch, caplog):
    monkeypatch.setattr(waiting, "POLL", 0.0)
    monkeypatch.setattr(waiting, "LONG", 0.0)
    looks = {"a": 3, "b": 9}

    def done(part):
        looks[part] -= 1
        return looks[part] < 0

    waiting.wait_for(done, list(looks))
    assert max(looks.values()) < 0
    assert len(caplog.messages) == 2, "once for each time without progress: before a and before b"
    assert caplog.messages[0].startswith(
        "2 of 2 parts of other processes are missing; if these have ended, press Ctrl-C"
    )
    caplog.clear()
    monkeypatch.setattr(waiting, "LONG", 60.0)
    looks.update(a=2, b=2)
    waiting.wait_for(done, list(looks))
    waiting.wait_for(lambda part: True, ["c"])
    assert not caplog.messages
