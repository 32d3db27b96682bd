import pytest

from figures import figure
from mmcomponents.synthesis.steps import ProcessSteps, WholeAnswer, split_steps

SPLITS = figure("h_visualprm.json")["split"]


@pytest.mark.parametrize("case", SPLITS, ids=lambda c: f"{c['num_paragraphs']} in {c['max_steps']}")
def test_steps_equal_the_reference(case) -> None:
    text = "\n\n".join(f"s{number}" for number in range(case["num_paragraphs"]))
    steps = split_steps(text, case["max_steps"])
    assert steps == case["steps"]
    assert "\n\n".join(steps) == text


def test_steps_joined_are_the_text_again() -> None:
    text = "First,\nwith two lines.\n\n  indented: a + b\n\n- 3\n- 4\n\nFinal answer: 7"
    assert "\n\n".join(split_steps(text, None)) == text
    assert len(split_steps(text, 2)) == 2


@pytest.mark.parametrize(
    "text",
    ["a\r\n\r\nb\r\n\r\nc", "a\n\n\n\nb\n \t\n\nc", "\n\n a\n\nb  \n\nc\n\n\n", "a\r\rb\r\rc\n"],
    ids=["CRLF", "several blank lines, with white space", "around the text", "CR"],
)
def test_blank_lines_of_any_kind_separate(text) -> None:
    assert [step.strip() for step in split_steps(text, None)] == ["a", "b", "c"]


def test_a_text_of_nothing_has_no_steps() -> None:
    assert split_steps("", 12) == split_steps(" \n\n\t\n", None) == []


def test_steps_have_to_be_allowed() -> None:
    with pytest.raises(ValueError, match="max_steps must be at least 1, got 0"):
        split_steps("a", 0)


def test_a_critic_judges_steps_or_the_whole() -> None:
    text = "a\n\nb\n\nc"
    assert ProcessSteps()(text) == ["a", "b", "c"]
    assert ProcessSteps(2)(text) == ["a\n\nb", "c"]
    assert WholeAnswer()(text) == [text]
    assert WholeAnswer()(" \n") == []
