"""The benchmark of kills: where it says that a kill fell is where it fell."""

import json
import os


def test_a_resumed_run_counts_from_its_own_first_step(tmp_path):
    import kill_resume

    def log(*events):
        lines = [json.dumps({"event": event, "step": step, "time": time}) for event, step, time in events]
        (tmp_path / "events.jsonl").write_text("".join(f"{line}\n" for line in lines) + '{"event": "st', "utf-8")

    assert kill_resume.last_step(tmp_path) == 0
    log(("start", 0, 1.0), ("step", 1, 2.0), ("step", 5, 3.0), ("start", 5, 10.0))
    assert kill_resume.last_step(tmp_path) == 5
    assert kill_resume.last_step(tmp_path, since=9.0) == 0
    log(("start", 0, 1.0), ("step", 5, 3.0), ("start", 5, 10.0), ("step", 6, 11.0), ("evaluation", 9, 12.0))
    assert kill_resume.last_step(tmp_path, since=9.0) == 6


def test_what_an_earlier_kill_left_behind_is_no_write(tmp_path):
    import kill_resume

    new = tmp_path / "last.new"
    assert kill_resume.made(new) is None
    new.mkdir()
    before = kill_resume.made(new)
    assert kill_resume.made(new) == before
    while kill_resume.made(new) == before:  # the clock of a file system ticks in milliseconds
        (new / "model.safetensors").touch()
        os.unlink(new / "model.safetensors")
    assert kill_resume.made(new) > before
