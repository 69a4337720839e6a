"""The report of a run: what is on the page, what is not, and how a browser shows it."""

import html
import itertools
import json
import logging
import re
from dataclasses import replace

import pytest
from PIL import Image

from ldm.cli.entry import read_command_line
from ldm.config import compose
from ldm.report import pictures, program
from ldm.report.charts import MOST_POINTS, chart_of_panel, thinned
from ldm.report.notes import notes
from ldm.report.page import moment, named, render, shown, write_report
from ldm.report.pictures import LONGEST_SIDE, MEANINGS, MOST_PICTURES, inline_pictures
from ldm.report.record import MOST_COMMANDS
from ldm.report.run_folder import read_run
from tests.conftest import ROOT
from tests.report.browser import look
from tests.report.folders import CONFIG, a_record, write_run

HOSTILE = "</pre><script>alert('a')</script>\"><img src=x onerror=alert(1)> & $x_1$ 红"
"""A text that would do something, were it not escaped."""


def page_of(folder):
    file = folder / "report.html"
    write_report(read_run(folder), file)
    return file


def run(*words):
    program.main(compose("report", list(read_command_line("report", [*words], "", "runs", paths=True).options)))


def test_everything_is_on_the_page(tmp_path):
    folder = write_run(tmp_path / "a", record=a_record(warnings=["few images"]))
    text = html.unescape(page_of(folder).read_text())
    for part in (
        "python train.py experiment=hearts",
        "python sample.py ckpt=runs/hearts",
        "a processor",
        "torch",
        "max_steps: 100",
    ):
        assert part in text
    results = json.loads((folder / "diffusion" / "results.json").read_text())
    assert f">{shown(results['val/loss'])}<" in text
    assert "Warning while it ran: few images" in text
    assert text.count("<svg") == 3, "a chart for each panel that has curves"
    assert text.count("<img") == 6, "three pictures of each stage"
    assert "<script" not in text


def test_a_reader_who_has_not_made_the_run_learns_what_pictures_and_scores_are(tmp_path):
    folder = write_run(tmp_path / "a", record=a_record())
    (folder / "autoencoder" / "pictures" / "samples-00000010.png").rename(
        folder / "autoencoder" / "pictures" / "of_my_own-00000010.png"
    )
    text = page_of(folder).read_text()
    assert text.count(MEANINGS["samples"]) == 2, "once for each stage"
    assert text.count(">val/<wbr>psnr (dB)<") == 1
    assert text.count(">val/<wbr>loss<") == 2, "card and table"
    assert named("val/<b>_x") == "val/<wbr>&lt;b&gt;_<wbr>x"


def test_captions_of_pictures_are_listed_those_in_common_once(tmp_path):
    folder = write_run(tmp_path / "a", stages=("diffusion",))
    pictures = folder / "diffusion" / "pictures"
    for step, captions in ((10, [HOSTILE, "a cat"]), (20, [HOSTILE, "a cat"]), (30, ["class 3", ""])):
        (pictures / f"samples-{step:08d}.txt").write_text("".join(f"{one}\n" for one in captions), encoding="utf-8")
    text = page_of(folder).read_text()
    assert "<img src=x" not in text
    assert re.findall("Images row by row, [^<]*", text) == [
        "Images row by row, steps 10, 20",
        "Images row by row, step 30",
    ]
    assert [html.unescape(one) for one in re.findall("<li>(.*)</li>", text)][-4:] == [HOSTILE, "a cat", "class 3", ""]


def test_every_picture_of_a_run_has_a_meaning():
    drawn = [
        re.findall(r'\bshow\(trainer, "(\w+)"', file.read_text()) for file in (ROOT / "ldm" / "callback").glob("*.py")
    ]
    assert sorted(itertools.chain(*drawn)) == sorted(MEANINGS)


def test_texts_of_users_are_escaped_wherever_they_come_from(tmp_path):
    config = json.loads(json.dumps(CONFIG)) | {"name": HOSTILE, "tags": [HOSTILE]}
    config["stage"] = {"autoencoder": config["stage"]["autoencoder"]}
    record = a_record(f"python train.py prompt={HOSTILE}", warnings=[HOSTILE])
    folder = write_run(tmp_path / "a", config=config, record=record, stages=("autoencoder",))
    metrics = folder / "autoencoder" / "logs" / "metrics.csv"
    metrics.write_text(metrics.read_text().replace("val/psnr", '"val/<b>psnr"'))
    (folder / "record.json").write_text((folder / "record.json").read_text().replace('"val/psnr"', '"psnr"'))
    (folder / "autoencoder" / "pictures" / "samples-00000010.png").rename(
        folder / "autoencoder" / "pictures" / '<i onclick="a">-00000010.png'
    )
    text = page_of(folder).read_text()
    for dangerous in ("<script", "<img src=x", "<b>psnr", "<i onclick"):
        assert dangerous not in text
    assert text.count("&lt;script&gt;") >= 4, "it is shown as it was typed"
    assert "val/&lt;b&gt;psnr" in text


def test_a_page_says_when_which_stage_and_what_to_type_next(tmp_path):
    text = html.unescape(page_of(write_run(tmp_path / "a", record=a_record())).read_text())
    assert text.count("2024-02-03 04:05 UTC") == 2
    assert "+00:00" not in text
    assert "Scores of the stage diffusion at its end" in text
    assert "the same command goes on" not in text
    begun = write_run(tmp_path / "b", finished=False, steps=50, record=replace(a_record(), next_command=""))
    text = html.unescape(page_of(begun).read_text())
    assert "next: the same command goes on" in text
    assert text.count("python train.py experiment=hearts") == 2
    assert moment("2024-02-03T06:05:06+02:00") == "2024-02-03 04:05 UTC"
    assert moment("long ago") == "long ago"


def test_secrets_are_not_shown(tmp_path):
    config = CONFIG | {
        "logger": {"wandb": {"api_key": "abc123", "project": "hearts"}},
        "data": {
            "train": ["https://me:pass@host.org/a.tar?X-Signature=s3cr3t", "s3://bucket/{000..099}.tar"],
            "max_tokens": 77,
        },
    }
    record = a_record("python train.py 'data.train=https://host.org/a.tar?sig=s3cr3t'")
    folder = write_run(tmp_path / "a", config=config, record=record)
    text = html.unescape(page_of(folder).read_text())
    for secret in ("abc123", "me:pass"):
        assert secret not in text
    assert "s3://bucket/{000..099}.tar" in text
    assert "max_tokens: 77" in text
    assert "X-Signature" not in text


def test_a_page_stays_small_however_long_the_run(tmp_path):
    folder = write_run(tmp_path / "a", steps=20_000, pictures=40, record=a_record())
    large = folder / "diffusion" / "pictures" / "samples-00000400.png"
    Image.effect_noise((1500, 1500), 100).convert("RGB").save(large)
    assert page_of(folder).stat().st_size < 3e6
    found = inline_pictures(read_run(folder).stages[1].pictures["samples"])
    assert [picture.step for picture in found] == [10, 90, 170, 240, 320, 400]
    assert len(found) == MOST_PICTURES
    assert max(found[-1].width, found[-1].height) == LONGEST_SIDE


def test_long_curves_keep_their_ends():
    points = [(step, float(step)) for step in range(12_345)]
    few = thinned(points)
    assert len(few) == MOST_POINTS
    assert (few[0], few[-1]) == (points[0], points[-1])
    assert few == sorted(set(few))
    assert thinned(points[:100]) == points[:100]


def test_a_chart_shows_the_values_and_takes_the_colours_of_the_page():
    svg = chart_of_panel("loss", {"train/$x$<y>": [(10, 0.5), (20, 0.25)]}, key="k")
    assert "train/$x$&lt;y&gt;" in svg
    assert "#000000" not in svg
    assert "currentColor" in svg
    assert "loss: train/$x$&lt;y&gt; from 0.5 at step 10 to 0.25 at step 20" in svg
    assert set(re.findall(r'id="(\w)', svg)) == {"k"}


def test_pictures_that_cannot_be_read_are_left_out(tmp_path, caplog):
    folder = write_run(tmp_path / "a")
    (folder / "diffusion" / "pictures" / "samples-00000020.png").write_bytes(b"no picture")
    with caplog.at_level(logging.WARNING):
        page_of(folder)
    assert "samples-00000020.png is left out of the report" in caplog.text
    bomb = folder / "diffusion" / "pictures" / "samples-00000010.png"
    assert pictures.inline_pictures([(10, bomb)])


def test_what_a_reader_should_know(tmp_path):
    begun = write_run(tmp_path / "a", finished=False, steps=50, stages=("autoencoder",))
    remarks = "\n".join(notes(read_run(begun)))
    (psnr,) = read_run(begun).stages[0].latest.values()
    assert re.search(
        rf"autoencoder, not finished: the last values.*>val/<wbr>psnr \(dB\)<.*>{shown(psnr)}<",
        page_of(begun).read_text(),
        re.DOTALL,
    )
    assert "The stage autoencoder is not finished: the last step that was logged is 50 of 100." in remarks
    assert "The stage diffusion has not begun." in remarks
    assert "no record.json" in remarks
    folder = write_run(tmp_path / "b", record=a_record())
    remarks = "\n".join(notes(read_run(folder)))
    assert "diffusion: 20% of the time waited for data" in remarks
    assert "lowest" not in remarks
    results = folder / "diffusion" / "results.json"
    results.write_text(results.read_text().replace('"val/loss":', '"eval/fid": NaN, "val/loss":'))
    metrics = folder / "diffusion" / "logs" / "metrics.csv"
    rows = metrics.read_text().splitlines()
    place = rows[0].split(",").index("val/loss")
    metrics.write_text("\n".join([*rows, ",".join("110" if name == "step" else "9.0" for name in rows[0].split(","))]))
    remarks = "\n".join(notes(read_run(folder)))
    assert "the score eval/fid is nan" in remarks
    assert (
        f"the validation loss was lowest at step 100 ({float(rows[-1].split(',')[place]):.4g}) and ended at 9"
        in remarks
    )


@pytest.mark.parametrize(
    ("begun", "said"),
    [
        (2, "continued once; its 2 commands are below"),
        (4, "continued 3 times; its 4 commands are below"),
        (
            60,
            f"continued at least {MOST_COMMANDS - 1} times; the first command and the last {MOST_COMMANDS - 1} are below",
        ),
    ],
)
def test_a_run_that_was_continued_says_how_often_and_which_commands_are_listed(tmp_path, begun, said):
    record = a_record()
    for _ in range(begun - 1):
        record = record.begun(a_record().invocations[0])
    folder = write_run(tmp_path / "a", record=record)
    assert said in "\n".join(notes(read_run(folder)))
    listed = page_of(folder).read_text().partition('id="commands"')[2].count("python train.py experiment=hearts")
    assert listed == min(begun, MOST_COMMANDS)


def test_the_program_writes_a_report_of_each_run_and_replaces_no_other_file(tmp_path, capsys):
    folders = [write_run(tmp_path / name) for name in ("a", "seed=1")]
    run(*map(str, folders))
    assert all((folder / "report.html").is_file() for folder in folders)
    assert str(folders[1] / "report.html") in capsys.readouterr().out
    run(str(folders[0]))
    (folders[0] / "report.html").write_text("mine")
    with pytest.raises(ValueError, match="was not written by this program"):
        run(str(folders[1]), str(folders[0]))
    assert (folders[0] / "report.html").read_text() == "mine"
    with pytest.raises(ValueError, match="is one file, and there are 2 runs"):
        run(*map(str, folders), f"out={tmp_path / 'x.html'}")
    with pytest.raises(ValueError, match="no run is named"):
        run()


@pytest.mark.e2e
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_shows_the_page(tmp_path, dark):
    config = CONFIG | {"name": "a-run-with-a-name-" * 8, "tags": [HOSTILE, "x" * 400]}
    command = f"python train.py experiment=hearts {'data.train=' + 'a' * 300} '{HOSTILE}'"
    folder = write_run(tmp_path / "a", config=config, record=a_record(command, warnings=["w" * 300]))
    file = page_of(folder)
    seen = look(file, tmp_path, dark=dark)
    for one in seen:
        assert one.overflow == 0
        assert len(one.images) == 6
        assert min(one.images) > 0
        assert one.title.endswith("report of a run")
        assert one.texts > 50
        assert (one.unnamed, one.headless, one.faint, one.ids, one.links) == (0, 0, [], 0, [])
        assert (one.ground < 0.05) == dark


@pytest.mark.e2e
def test_the_browser_would_see_what_is_wrong(tmp_path):
    file = tmp_path / "wrong.html"
    file.write_text(
        "<body style='background: #fff'><p style='color: #aaa; width: 900px'>faint and wide</p><img src='data:,'>"
        "<i id=a></i><i id=a></i><table><tr><td>1</table><script>nothing()</script>"
    )
    with pytest.raises(AssertionError, match="nothing is not defined"):
        look(file, tmp_path, widths=(400,))
    file.write_text(re.sub(r"<script.*", "<a src='data:,'></a><link href='other.css'>", file.read_text()))
    (seen,) = look(file, tmp_path, widths=(400,))
    assert seen.overflow > 400
    assert seen.images == [0]
    assert (seen.unnamed, seen.headless, seen.faint, seen.ids, seen.links) == (
        1,
        1,
        ["faint and wide"],
        1,
        ["other.css"],
    )


def test_a_template_that_names_what_is_not_there_is_an_error():
    with pytest.raises(Exception, match="'run' is undefined"):
        render("report.html", stages=[], notes=[])
