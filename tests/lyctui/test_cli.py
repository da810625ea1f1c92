"""The command line as a program sees it: exit codes, streams, objects, questions that cannot be asked."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from engine.events import Ended, Saved, Started, StepDone, to_dict
from engine.runs import RunFolder
from lyctui.demo.asset import unpack_base
from lyctui.verbs.flags import FLAGS

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path):
    """Environment of a person whose places are all below tmp_path."""
    keep = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    return keep | {
        "HOME": str(tmp_path),
        "LYCTUI_RUNS": str(tmp_path / "runs"),
        "LYCTUI_CACHE": str(tmp_path / "cache"),
        "LYCTUI_STATE": str(tmp_path / "state"),
        "LYCTUI_CONFIG": str(tmp_path / "config"),
        "CUDA_VISIBLE_DEVICES": "",
        "CI": "true",
    }


@pytest.fixture
def call(home, tmp_path):
    """Run `lyctui` without a terminal; gives exit code, stdout and stderr."""

    def run(*arguments, **environment):
        return subprocess.run(
            [sys.executable, "-m", "lyctui", *map(str, arguments)],
            capture_output=True,
            text=True,
            env=home | environment,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            timeout=120,
        )

    return run


def objects(done):
    """Every line of stdout as an object; nothing else may be there."""
    every = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(each["v"] == 1 for each in every)
    return every


def make_run(root: Path, name: str, *events) -> Path:
    folder = RunFolder(root / name)
    folder.path.mkdir(parents=True)
    folder.recipe.write_text('version = 1\n[data]\ntrigger = "vexilo"\n')
    lines = [json.dumps(to_dict(event)) for event in events]
    folder.events.write_text("".join(line + "\n" for line in lines))
    return folder.path


def started(at=1000.0):
    return Started(
        run="r",
        total_steps=20,
        steps_per_epoch=(10, 10),
        batch_size=2,
        samples_per_epoch=20,
        time=at,
    )


def step(number, at=1001.0):
    return StepDone(
        step=number,
        epoch=1,
        loss=0.1,
        lr={"unet": 1e-4},
        grad_norm=1.0,
        seconds=0.5,
        samples=2,
        time=at,
    )


def ended(state, steps, at=1002.0):
    return Ended(state=state, run="r", files=(), steps=steps, exit=0, time=at)


# Words and help -----------------------------------------------------------------------------


def test_version_is_one_line(call):
    done = call("--version")

    assert done.returncode == 0
    assert done.stdout.startswith("lyctui ") and done.stdout.count("\n") == 1


def test_help_lists_every_verb_and_examples(call):
    done = call("--help")

    assert done.returncode == 0
    train, look = (
        ("new", "train", "resume", "demo", "stop"),
        ("watch", "runs", "plan", "doctor", "check"),
    )
    for verb in (*train, *look, "presets", "explain", "info", "paths"):
        assert f" {verb} " in done.stdout
    assert "Examples" in done.stdout


def test_an_unknown_verb_and_an_unknown_flag_are_wrong_calls(call):
    assert call("trian").returncode == 2
    assert call("train", "x.toml", "--epoch", "3").returncode == 2


def test_own_flags_are_those_of_the_declarations():
    from engine.settings import Recipe
    from engine.settings.walk import settings

    declared: dict[str, str] = {}
    for setting in settings(Recipe):
        if setting.ask.flag:
            declared[setting.ask.flag] = setting.path
    assert {flag.name: flag.path for flag in FLAGS} == declared


# Questions that cannot be asked -------------------------------------------------------------


def test_the_wizard_without_a_terminal_names_the_flags(call):
    done = call()

    assert done.returncode == 2
    assert "lyctui new" in done.stderr and done.stdout == ""


def test_train_without_model_and_pictures_names_both_flags(call, tmp_path):
    recipe = tmp_path / "run.toml"
    recipe.write_text("[train]\nepochs = 2\n")
    done = call("train", recipe)

    assert done.returncode == 2
    assert "--model" in done.stderr and "--data" in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "runs").exists()


def test_resume_without_a_name_says_which_run_it_would_be(call, tmp_path):
    make_run(tmp_path / "runs", "vexilo_v1", started(), step(7))
    done = call("resume")

    assert done.returncode == 2
    assert "vexilo_v1" in done.stderr and "--yes" in done.stderr


def test_watch_with_several_runs_asks_for_a_name(call, tmp_path):
    make_run(tmp_path / "runs", "a", started(), step(7))
    make_run(tmp_path / "runs", "b", started(), step(7))
    done = call("watch")

    assert done.returncode == 2
    assert "lyctui watch RUN" in done.stderr


# Errors -------------------------------------------------------------------------------------


def test_errors_are_objects_with_json(call, tmp_path):
    recipe = tmp_path / "run.toml"
    recipe.write_text("[train]\nepochs = 0\nbatchsize = 3\n")
    done = call("train", recipe, "--json")

    assert done.returncode == 2
    every = objects(done)
    assert {each["path"] for each in every} == {"train.epochs", "train.batchsize"}
    for each in every:
        assert set(each) == {"v", "error", "what", "where", "remedy", "path"}


def test_all_mistakes_are_said_at_once(call, tmp_path):
    recipe = tmp_path / "run.toml"
    recipe.write_text('[train]\nepochs = 0\n[optim]\nlr = "fast"\n')
    done = call("plan", recipe, "--set", "network.rnk=3")

    assert done.returncode == 2
    for path in ("train.epochs", "optim.lr", "network.rnk"):
        assert path in done.stderr
    assert "network.rank" in done.stderr


def test_a_recipe_that_is_not_there_is_said(call):
    done = call("train", "nowhere.toml")

    assert done.returncode == 2
    assert "nowhere.toml" in done.stderr


def test_a_model_that_is_not_there_is_the_environments_fault(call, tmp_path):
    Image.new("RGB", (512, 512)).save(tmp_path / "a.png")
    recipe = tmp_path / "run.toml"
    recipe.write_text("")
    done = call(
        "plan", recipe, "--model", "missing.safetensors", "--data", tmp_path, "--trigger", "vexilo"
    )

    assert done.returncode == 3
    assert "missing.safetensors" in done.stderr


def test_foreign_text_reaches_no_terminal_raw(call, tmp_path):
    folder = tmp_path / "10_a\x1b[31mred"
    folder.mkdir()
    Image.new("RGB", (512, 512)).save(folder / "p\x07.png")
    done = call("check", tmp_path)

    assert "\x1b" not in done.stdout + done.stderr
    assert "\x07" not in done.stdout + done.stderr


# Hardware -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus", "batch", "words"),
    [
        ([{"gib": 8}], 2, "8 GB class"),
        ([{"gib": 12}], 4, "10 to 12 GB class"),
        ([{"gib": 24}], 6, "only 6 pictures"),
        ([{"gib": 24, "free_gib": 3}, {"gib": 12}], 4, "11.6 GiB free on GPU 1"),
    ],
)
def test_a_plan_proposes_by_the_card_that_is_found(call, home, tmp_path, gpus, batch, words):
    folder = tmp_path / "1_vexilo emblem"
    folder.mkdir()
    for number in range(6):
        Image.new("RGB", (512, 512), (number, 0, 0)).save(folder / f"{number}.png")
    base = unpack_base(tmp_path / "base")
    (tmp_path / "run.toml").write_text("")
    home.pop("CUDA_VISIBLE_DEVICES")
    stub = {"PYTHONPATH": str(REPOSITORY / "tests/stubs/nvml"), "STUB_GPUS": json.dumps(gpus)}
    given = ("run.toml", "--model", base, "--data", folder)
    (plan,) = objects(call("plan", *given, "--json", **stub))

    origin = plan["origins"]["train.batch_size"]
    assert origin["source"] == "detected" and words in origin["reason"]
    assert plan["buckets"][0]["samples"] == 6
    assert plan["buckets"][0]["batches"] == -(-6 // batch)
    # This torch cannot use the card: training says so instead of running on the CPU unasked.
    done = call("train", *given, **stub)
    if "without CUDA" in " ".join(plan["notices"]):
        assert done.returncode == 3 and "--device cpu" in done.stderr


# check --------------------------------------------------------------------------------------


def test_check_gives_findings_and_a_summary(call, tmp_path):
    folder = tmp_path / "10_vexilo emblem"
    folder.mkdir()
    Image.new("RGB", (512, 512)).save(folder / "good.png")
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnot a picture")
    done = call("check", tmp_path, "--json")

    assert done.returncode == 4
    *findings, summary = objects(done)
    assert summary["summary"]["errors"] == 1 and summary["summary"]["images"] == 1
    (broken,) = [each for each in findings if each["level"] == "error"]
    assert broken["files"] == ["bad.png"]
    assert {"finding", "level", "folder", "files", "message", "fix"} <= set(broken)


def test_check_of_a_good_folder_is_0_and_of_a_missing_one_2(call, tmp_path):
    folder = tmp_path / "10_vexilo emblem"
    folder.mkdir()
    Image.new("RGB", (512, 512)).save(folder / "good.png")

    assert call("check", folder).returncode == 0
    assert call("check", tmp_path / "nowhere").returncode == 2


# Runs ---------------------------------------------------------------------------------------


def test_runs_lists_state_step_and_folder(call, tmp_path):
    root = tmp_path / "runs"
    make_run(root, "done", started(), step(20), ended("finished", 20, 2000.0))
    make_run(root, "lost", started(), step(7, 1500.0))
    (root / "no run").mkdir()
    every = objects(call("runs", "--json"))

    assert [(each["run"], each["state"], each["step"]) for each in every] == [
        ("done", "finished", 20),
        ("lost", "ended unexpectedly", 7),
    ]
    assert [each["resumable"] for each in every] == [False, True]
    words = call("runs").stdout
    assert "lost" in words and "7 of 20" in words


def test_no_runs_yet_is_no_error_and_makes_nothing(call, tmp_path):
    done = call("runs")

    assert done.returncode == 0 and "No runs" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_stop_of_a_run_that_does_not_run_says_how_to_go_on(call, tmp_path):
    make_run(tmp_path / "runs", "vexilo_v1", started(), step(7))
    done = call("stop", "vexilo_v1")

    assert done.returncode == 2
    assert "lyctui resume vexilo_v1" in done.stderr


def test_an_unknown_run_names_the_nearest(call, tmp_path):
    make_run(tmp_path / "runs", "vexilo_v1", started())
    done = call("watch", "vexilo")

    assert done.returncode == 2
    assert "vexilo_v1" in done.stderr


def test_watch_of_a_finished_run_ends_at_once(call, tmp_path):
    saved = Saved(
        what="network", step=20, epoch=2, path="done.safetensors", final=True, time=1001.5
    )
    make_run(tmp_path / "runs", "done", started(), step(20), saved, ended("finished", 20))
    done = call("watch", "done", "--json")

    assert done.returncode == 0
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == [
        "started",
        "step",
        "saved",
        "finished",
    ]


def test_resume_of_a_finished_run_asks_for_more_epochs(call, tmp_path):
    make_run(tmp_path / "runs", "done", started(), step(20), ended("finished", 20))
    done = call("resume", "done")

    assert done.returncode == 2
    assert "train.epochs" in done.stderr


def test_a_finished_run_tells_what_has_ended_it(tmp_path):
    from engine.errors import RunError
    from lyctui.verbs.flags import Asked
    from lyctui.verbs.resume import reopened

    folder = make_run(tmp_path, "done", started(), step(20), ended("finished", 20))
    with (folder / "run.toml").open("a") as file:
        file.write("[train]\nmax_steps = 20\n")
    with pytest.raises(RunError) as raised:
        reopened(folder, Asked(), from_step=None, quiet=True)
    remedy = raised.value.problems[0].remedy
    assert remedy == f"Raise the step limit: lyctui resume {folder} --set train.max_steps=N"


def test_the_unfinished_run_of_a_recipe_is_found_by_its_file(tmp_path, monkeypatch):
    from engine.settings import Recipe
    from lyctui.verbs.start import RECIPE_FILE, unfinished_run

    root, own = tmp_path / "runs", tmp_path / "own.toml"
    monkeypatch.setenv("LYCTUI_RUNS", str(root))

    def run(name: str, recipe_file: Path, *events, state: bool = True) -> Path:
        folder = make_run(root, name, *events)
        origins = {RECIPE_FILE: {"source": "you", "reason": str(recipe_file)}}
        (folder / "origins.json").write_text(json.dumps(origins))
        if state:
            (folder / "state" / "step-00000005").mkdir(parents=True)
        return folder

    run("other", tmp_path / "other.toml", started(), step(7, 5000.0))
    run("done", own, started(), step(20), ended("finished", 20, 4000.0))
    run("too early", own, started(), step(1, 3500.0), state=False)
    assert unfinished_run(Recipe(), own) is None
    older = run("older", own, started(), step(7, 2000.0))
    assert unfinished_run(Recipe(), own) == older
    newer = run("newer", own, started(), step(9), ended("stopped", 9, 3000.0))
    assert unfinished_run(Recipe(), own) == newer
    assert unfinished_run(Recipe(), older / "run.toml") == older


# Places -------------------------------------------------------------------------------------


def test_paths_follow_the_environment_and_make_nothing(call, tmp_path):
    rows = {each["name"]: each["path"] for each in objects(call("paths", "--json"))}

    assert rows["runs"] == str(tmp_path / "runs")
    assert rows["cache"] == str(tmp_path / "cache")
    assert rows["drafts"] == str(tmp_path / "state" / "drafts")
    assert list(tmp_path.iterdir()) == []


def test_paths_follow_xdg_without_our_variables(home, tmp_path):
    environment = {name: value for name, value in home.items() if not name.startswith("LYCTUI_")}
    environment["XDG_STATE_HOME"] = str(tmp_path / "xdg")
    done = subprocess.run(
        [sys.executable, "-m", "lyctui", "paths", "--json"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    rows = {each["name"]: each["path"] for each in objects(done)}

    assert rows["state"] == str(tmp_path / "xdg" / "lyctui")
    assert rows["runs"] == str(tmp_path / "lyctui" / "runs")


def test_a_reader_that_leaves_early_gets_no_traceback(home):
    command = f"{sys.executable} -m lyctui explain | head -n 1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=home, timeout=60
    )

    assert done.stderr == ""


def test_nothing_is_looked_through_for_garbage_on_the_way_out(tmp_path):
    """With torch and its libraries loaded that would take seconds, in which a shell waits."""
    code = (
        "import atexit, gc, sys; sys.argv[1:] = ['paths']; from lyctui.cli import main\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 0)); main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env=os.environ | {"LYCTUI_STATE": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "True")
