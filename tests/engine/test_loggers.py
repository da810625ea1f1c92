"""Logs for other programs: complete after any resume, silent when off, never the end of a run."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from engine import loggers
from engine.errors import EnvironmentFault
from engine.events import Event, Sampled, Saved, Started, StepDone, Validated, Warned, to_dict
from engine.loggers import CSV_NAME, Loggers, open_loggers, require_loggers
from engine.runs import RunFolder
from engine.settings.run import Run
from tests.small_run import draw_pictures, small_recipe


def started(step: int = 0) -> Started:
    return Started("run", 10, (5, 5), 2, 10, step=step)


def done(step: int, loss: float = 0.5) -> StepDone:
    rates = {"unet": 1e-4, "te": 5e-5}
    return StepDone(step, 1, loss, rates, 0.25, 0.5, 2, vram_bytes=1024)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / CSV_NAME).open(newline="") as file:
        return list(csv.DictReader(file))


def feed(found: Loggers, *events: Event) -> list[str]:
    return [warning for event in events for warning in found.see(event)]


def steps(folder: Path) -> list[tuple[str, str]]:
    return [(row["event"], row["step"]) for row in rows(folder)]


def test_nothing_is_written_unless_switched_on(tmp_path: Path) -> None:
    found = open_loggers(Run(), RunFolder(tmp_path), "")
    feed(found, started(), done(1))
    found.close()
    assert list(tmp_path.iterdir()) == []


def test_csv_has_a_line_for_each_step_and_measurement(tmp_path: Path) -> None:
    found = open_loggers(Run(csv=True), RunFolder(tmp_path), "")
    feed(found, started(), done(1, 0.75), Validated(1, 1, 0.9, 0.8))
    first, second = rows(tmp_path)
    assert float(first["loss"]) == 0.75
    assert (first["lr_unet"], first["lr_te"], first["lr_te2"]) == ("0.0001", "5e-05", "")
    assert (second["event"], second["held_out"], second["loss"]) == ("validated", "0.9", "")
    found.close()


def test_a_resume_from_an_earlier_step_leaves_no_line_twice_and_none_out(tmp_path: Path) -> None:
    first = open_loggers(Run(csv=True), RunFolder(tmp_path), "")
    feed(first, started(), *map(done, range(1, 8)), Saved("state", 4, 1, "state"))
    first.close()
    with (tmp_path / CSV_NAME).open("a") as file:
        file.write("step,8,1,17")  # killed in the middle of a line
    second = open_loggers(Run(csv=True), RunFolder(tmp_path), "")
    feed(second, started(4), *map(done, range(5, 11)))
    second.close()
    assert steps(tmp_path) == [("step", str(step)) for step in range(1, 11)]


def test_csv_switched_on_for_a_resume_takes_the_earlier_steps_from_the_events(
    tmp_path: Path,
) -> None:
    past = [started(), *map(done, range(1, 6)), started(3), done(4), done(5)]
    lines = [json.dumps(to_dict(event)) for event in past]
    RunFolder(tmp_path).events.write_text("\n".join(lines) + "\n")
    found = open_loggers(Run(csv=True), RunFolder(tmp_path), "")
    feed(found, started(4), done(5))
    found.close()
    assert [step for _, step in steps(tmp_path)] == ["1", "2", "3", "4", "5"]


def test_tensorboard_reads_back_numbers_and_pictures(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    picture = tmp_path / "a.png"
    Image.new("RGB", (8, 8), "red").save(picture)
    found = open_loggers(Run(tensorboard=True), RunFolder(tmp_path), "")
    told = feed(
        found, started(), done(1, 0.75), done(2, 0.5), Validated(2, 1, 0.9, 0.8),
        Sampled(2, 1, (str(picture),), ("red",)), Saved("network", 2, 1, "/x/a.safetensors"),
    )  # fmt: skip
    assert told + found.close() == []
    again = open_loggers(Run(tensorboard=True), RunFolder(tmp_path), "")
    assert feed(again, started(1), done(2, 0.25)) + again.close() == []
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    curve = [(point.step, point.value) for point in read.Scalars("loss/step")]
    assert curve == [(1, 0.75), (2, 0.25)]  # the repeated step is there once
    assert {"rate/unet", "rate/te", "gradient/norm"} <= set(read.Tags()["scalars"])
    assert read.Tags()["images"] == ["samples/1"]


class Service:
    """Stands for the package wandb, which sends: what reaches it through accelerate's own tracker."""

    def __init__(self) -> None:
        self.opened: dict[str, Any] = {}
        self.logged: list[tuple[dict[str, Any], int | None]] = []
        self.finished = False

    def init(self, **given: Any) -> Service:
        self.opened = given
        return self

    def Settings(self, **given: Any) -> dict[str, Any]:
        return given

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        self.logged.append((values, step))

    def finish(self) -> None:
        self.finished = True


def test_wandb_gets_the_project_and_numbers_and_no_key_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, key = Service(), "never-to-be-written"
    monkeypatch.setitem(sys.modules, "wandb", service)  # type: ignore[arg-type]
    monkeypatch.setenv("WANDB_API_KEY", key)
    run, folder = Run(wandb=True, wandb_project="emblems"), RunFolder(tmp_path)
    found = open_loggers(run, folder, "[run]\n")
    assert feed(found, started(), done(3, 0.5)) + found.close() == []
    assert service.opened["project"] == "emblems"
    assert service.opened["config"] == {"recipe": "[run]\n"}
    assert (service.logged[0][0]["loss/step"], service.logged[0][1]) == (0.5, 3)
    assert service.finished
    assert key not in str(service.opened)
    assert not [path for path in tmp_path.rglob("*") if key in path.read_text()]
    first = service.opened["id"]
    again = open_loggers(run, folder, "")
    assert feed(again, started(3)) + again.close() == []
    assert service.opened["id"] == first, "a resume goes on with the same run there"


def test_a_failing_log_is_told_once_and_training_goes_on(tmp_path: Path) -> None:
    found = open_loggers(Run(csv=True), RunFolder(tmp_path / "gone"), "")
    told: list[Event] = []
    emit = found.telling(told.append)
    for event in (started(), done(1), done(2)):
        emit(event)
    warnings = [event.message for event in told if isinstance(event, Warned)]
    assert len(warnings) == 1
    assert warnings[0].startswith("The CSV log has stopped: FileNotFoundError")
    assert [event.step for event in told if isinstance(event, StepDone)] == [1, 2]


def test_a_missing_package_is_refused_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "PACKAGES", {"tensorboard": "no_such_a", "wandb": "no_such_b"})
    with pytest.raises(EnvironmentFault) as caught:
        require_loggers(Run(tensorboard=True, wandb=True))
    assert [problem.path for problem in caught.value.problems] == ["run.tensorboard", "run.wandb"]
    assert "pip install no_such_a" in caught.value.problems[0].remedy
    require_loggers(Run())


def test_wandb_without_a_key_is_refused_instead_of_asking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "PACKAGES", {"tensorboard": "json", "wandb": "json"})
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(EnvironmentFault):
        require_loggers(Run(wandb=True))
    monkeypatch.setenv("WANDB_MODE", "offline")
    require_loggers(Run(wandb=True))


def test_a_run_writes_the_logs_it_was_asked_for(tmp_path: Path) -> None:
    from engine.session import Session, create_run

    draw_pictures(tmp_path / "pictures" / "1_vexilo emblem", 2)
    recipe = small_recipe(
        tmp_path,
        run={"csv": True},
        train={"epochs": 1, "batch_size": 1},
        data={"resolution": [64, 64]},
        network={"algorithm": "lora", "rank": 1, "targets": "unet-transformer-only"},
    )
    session = Session(recipe, create_run(recipe), cache=tmp_path / "cache")
    session.start()
    session.wait()
    assert session.exit_code == 0, session.error
    assert steps(session.folder.path) == [("step", "1"), ("step", "2")]
    points = [point.loss for point in session.snapshot().points]
    assert [float(row["loss"]) for row in rows(session.folder.path)] == pytest.approx(points)
    assert not (session.folder.path / "tensorboard").exists()
