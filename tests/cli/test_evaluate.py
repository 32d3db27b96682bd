"""Tests of `mmcomponents evaluate`."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from test_import_export import RECIPE

import tiny
from drawn import Folder
from mmcomponents import checkpoints
from mmcomponents.cli.main import main
from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.evaluation import Evaluation
from mmcomponents.heads import LMHead

Write = Callable[[str, str], Path]
ASK = ("evaluate", "m", "--benchmark", "q.jsonl", "--metric", "exact", "--max_new_tokens", "4")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["What is this? It is a cat + a dog - 7."] * 4, 400)


@pytest.fixture
def folder(write: Write, tokenizer, monkeypatch: pytest.MonkeyPatch) -> dict[str, Folder]:
    """Creates the folders `m` and `critic`, and three questions, two with images."""
    vocab, made = len(tokenizer), {}
    for number, name in enumerate(("m", "critic")):
        model = tiny.model(number, embedder=TokenEmbedder(vocab, tiny.WIDTH), heads={"lm": LMHead(tiny.WIDTH, vocab)})
        made[name] = Folder(model, tokenizer)
        write(f"{name}/config.json", "{}")
    monkeypatch.setattr(checkpoints, "read", lambda path, **rest: made[str(path)])
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (20, 16), colour).save(name)
    lines = [
        {"id": "one", "image": "a.png", "question": "What is this?", "answer": "a cat", "category": "seen"},
        {"id": "two", "image": "b.png", "question": "What is this?", "answer": "a dog", "category": "seen"},
        {"id": "three", "question": "What is 7?", "answer": "7", "category": "told"},
    ]
    write("q.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    return made


def line_of_error(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert main(list(argv)) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1, told.err
    return told.err.removeprefix("mmcomponents: ").rstrip("\n")


def results(where: str) -> list[dict]:
    return [json.loads(line) for line in Path(where, "results.jsonl").read_text().splitlines()]


def test_one_candidate(folder, capsys) -> None:
    assert main([*ASK, "--out", "out"]) == 0
    told = capsys.readouterr().out
    assert "exact match on q, 3 questions" in told
    assert "│ first" in told
    assert "│ told" in told
    assert "wrote out/report.json, out/results.jsonl, out/accuracy.png" in told
    report = json.loads(Path("out/report.json").read_text())
    assert list(report["figures"]) == ["first"]
    assert [line["key"] for line in results("out")] == ["one", "two", "three"]
    assert report["settings"]["sampling"]["temperature"] == 0


def test_critics_and_all_selectors(folder, capsys) -> None:
    critics = ["--process_critic", "critic", "--outcome_critic", "critic", "--aggregate", "mean", "min"]
    drawn = [*ASK, "--samples", "3", "--temperature", "2", "--top_p", "1"]
    assert main([*drawn, *critics, "--out", "out"]) == 0
    report = json.loads(Path("out/report.json").read_text())
    names = ["first", "self_consistency", "best_of_n_prm_mean", "best_of_n_prm_min", "best_of_n_orm", "oracle"]
    assert list(report["figures"]) == names
    assert report["settings"]["critics"] == {"process": "critic", "outcome": "critic"}
    for line in results("out"):
        assert len(line["candidates"]) == 3
        assert [len(steps) for steps in line["scores"]["outcome"]] == [1, 1, 1]
        best = [steps[0] for steps in line["scores"]["outcome"]]
        assert best[line["chosen"]["best_of_n_orm"][-1]] == max(best)
    # the first candidate is greedy
    assert main([*ASK, "--out", "greedy"]) == 0
    first = [line["candidates"][0] for line in results("out")]
    assert first == [line["candidates"][0] for line in results("greedy")]
    # again with the same settings: nothing is drawn, and the files are unchanged
    before = {path.name: path.read_bytes() for path in Path("out").iterdir() if path.name != "report.json"}
    assert main([*drawn, *critics, "--out", "out"]) == 0
    assert before == {path.name: path.read_bytes() for path in Path("out").iterdir() if path.name != "report.json"}
    other = line_of_error(capsys, *drawn, *critics, "--out", "out", "--seed", "1")
    assert "out/candidates.jsonl was started with other settings" in other


def test_selectors_by_name(folder, capsys) -> None:
    few = [*ASK, "--samples", "2", "--limit", "1"]
    assert main([*few, "--selectors", "oracle", "First", "--out", "a"]) == 0
    assert list(json.loads(Path("a/report.json").read_text())["figures"]) == ["oracle", "First"]
    dotted = "mmcomponents.evaluation.selectors.SelfConsistency"
    assert main([*few, "--selectors", dotted, "--out", "b"]) == 0
    assert "did you mean 'oracle'?" in line_of_error(capsys, *few, "--selectors", "oracl")
    assert "no selector is called 'Frist'; did you mean 'First'?" in line_of_error(capsys, *few, "--selectors", "Frist")
    function = line_of_error(capsys, *few, "--selectors", "os.getcwd")
    assert "os.getcwd is not a selector, a subclass of mmcomponents.evaluation.selectors.Selector" in function


def test_several_benchmarks_and_some_questions(folder, write: Write, capsys) -> None:
    write("r.jsonl", '{"question": "What is it?", "answer": "a dog", "options": ["a cat", "a dog"]}\n')
    both = ["--benchmark", "r.jsonl", "--instruction", "Say it."]
    assert main([*ASK, *both, "--out", "out"]) == 0
    assert {path.name for path in Path("out").iterdir()} == {"q", "r"}
    assert main([*ASK, "--kinds", "told"]) == 0
    assert [line["key"] for line in results("runs/evaluate/m/q")] == ["three"]
    assert "no question of the kind 'toll'; there are: seen, told" in line_of_error(capsys, *ASK, "--kinds", "toll")


def test_ctrl_c_says_how_to_go_on(folder, capsys, monkeypatch) -> None:
    def stop(*_args, **_rest) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "draw", stop)
        assert main([*ASK, "--out", "out"]) == 130
    assert "stopped; the same command resumes from out" in capsys.readouterr().err


def test_what_is_wrong_is_one_line(folder, write: Write, capsys) -> None:
    write("bad.tsv", "index\tquestion\tanswer\n1\t?\t1\n")
    write("odd.jsonl", '{"id": 1, "question": "?", "answer": "1"}\n{"id": 2}\n')

    def told(*argv: str) -> str:
        return line_of_error(capsys, "evaluate", *argv)

    rest = ["--benchmark", "q.jsonl", "--metric", "exact"]
    assert "no option --metrik; did you mean 'metric'?" in told("m", "--benchmark", "q.jsonl", "--metrik", "exact")
    assert "no metric 'exakt'; did you mean 'exact'?" in told("m", "--benchmark", "q.jsonl", "--metric", "exakt")
    assert "--benchmark is missing" in told("m", "--metric", "exact")
    assert "--metric is missing" in told("m", "--benchmark", "q.jsonl")
    assert "needs MODEL, a folder, or --config" in told(*rest)
    assert "the folder MODEL cannot be combined with a recipe" in told("m", *rest, "--config", "quickstart")
    assert "no model folder 'mm'" in told("mm", *rest)
    assert "--limit must be at least 1, got 0" in told("m", *rest, "--limit", "0")
    assert "8 equal answers" in told("m", *rest, "--samples", "8", "--temperature", "0")
    assert "best_of_n needs a --process_critic" in told("m", *rest, "--selectors", "best_of_n")
    assert "process critic needs several samples" in told("m", *rest, "--process_critic", "critic")
    rest += ["--samples", "2"]
    critic = ["--process_critic", "critic"]
    assert "no selector uses the --process_critic" in told("m", *rest, "--selectors", "first", *critic)
    assert "there is no critic 'nowhere'" in told("m", *rest, "--process_critic", "nowhere")
    assert "has no checkpoint 'gone.ckpt'" in told("m", *rest, "--process_critic", "quickstart:gone.ckpt")
    column = told("m", "--benchmark", "bad.tsv", "--metric", "exact")
    assert column.startswith("evaluate: bad.tsv has no column 'image' or 'image_path'")
    assert "its columns are: index, question, answer" in column
    assert "question file not found" in told("m", "--benchmark", "gone.tsv", "--metric", "exact")
    assert "two benchmarks are named q" in told("m", *rest, "--benchmark", "q.jsonl")
    assert "is not an option (one letter)" in told("m", "--benchmark", "q.jsonl", "--metric", "multiple_choice")


def test_left_out_questions_are_named_and_counted(folder, write: Write, capsys) -> None:
    write("odd.jsonl", '{"id": 1, "question": "?", "answer": "1"}\n{"id": 2}\n')
    ask = ["evaluate", "m", "--benchmark", "odd.jsonl", "--metric", "exact", "--max_new_tokens", "2", "--out", "out"]
    assert main(ask) == 2
    assert "1 of 2 questions cannot be used, more than max_refused 0.01" in capsys.readouterr().err
    assert main([*ask, "--max_refused", "0.5"]) == 0
    told = capsys.readouterr()
    assert 'odd: skipped odd.jsonl:2: no "question"; its keys are: "id"' in told.err
    assert "skipped questions: 1, listed in report.json" in told.out


def test_a_critic_without_the_words_is_told_before_anything_is_drawn(folder, capsys, monkeypatch) -> None:
    folder["critic"].words = train_tokenizer(["no signs here"] * 4, 300)
    monkeypatch.setattr(Evaluation, "draw", lambda *_: pytest.fail("drawn"))
    monkeypatch.setattr(importlib.import_module("mmcomponents.data.chat.critic_prompt"), "WORDS", ("good step", "-"))
    told = line_of_error(capsys, *ASK, "--process_critic", "critic", "--samples", "2")
    assert told.startswith("the critic 'critic' cannot score steps: ")
    assert "'good step'" in told


def test_a_critic_of_a_recipe_is_looked_at_before_anything_is_drawn(folder, write: Write, capsys, monkeypatch) -> None:
    train_tokenizer(["no signs here"] * 4, 300).save_pretrained("tok")
    write("r.yaml", RECIPE)
    write("last.ckpt", "")
    monkeypatch.setattr(Evaluation, "draw", lambda *_: pytest.fail("drawn"))
    monkeypatch.setattr(importlib.import_module("mmcomponents.data.chat.critic_prompt"), "WORDS", ("good step", "-"))
    told = line_of_error(capsys, *ASK, "--process_critic", "r.yaml:last.ckpt", "--samples", "2")
    assert told.startswith("the critic 'r.yaml:last.ckpt' cannot score steps: ")
    assert "'good step'" in told


def test_critics_see_the_tiles_that_the_answers_were_made_from(folder) -> None:
    judged = ["--samples", "2", "--process_critic", "critic", "--out", "out"]
    assert main([*ASK, *judged, "--max_tiles", "3"]) == 0
    first = json.loads(Path("out/scores-process.jsonl").read_text().splitlines()[0])
    assert "max_tiles=3" in first["settings"]["critic"]["tiling"]


def test_process_is_handed_on(monkeypatch) -> None:
    from mmcomponents.cli.runs import evaluate_process

    seen: list[object] = []
    monkeypatch.setattr(evaluate_process, "main", lambda verb, argv: seen.append((verb, argv)) or 0)
    assert main(["evaluate", "process", "m", "--x"]) == 0
    assert seen == [("evaluate process", ["m", "--x"])]


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from mmcomponents.cli.main import main; main(['evaluate', '--help']);"
        "sys.exit(bool({'torch', 'lightning', 'matplotlib', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--process_critic" in done.stdout
