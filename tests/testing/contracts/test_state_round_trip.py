from __future__ import annotations

import random
from functools import partial

import torch
from torch import nn

from mmcomponents.heads import LMHead
from mmcomponents.objectives import NextToken
from mmcomponents.projectors import LinearProjector
from mmcomponents.testing import check_component
from testing.contracts.broken import failure


class RandomScale(LinearProjector):
    """Draws a number that is not in the state."""

    def __init__(self, in_features, out_features):
        super().__init__(in_features, out_features)
        self.scale = random.random()

    def forward(self, features, embedding_weight=None):
        return super().forward(features) * self.scale


class Snapshot(LinearProjector):
    """Keeps a copy of its weight once it has run."""

    def forward(self, features, embedding_weight=None):
        self.register_buffer("before", self.linear.weight.detach().clone())
        return super().forward(features)


class GlobalDraws(LinearProjector):
    def init_parameter(self, name, value, generator) -> None:
        nn.init.normal_(value)


class Teacher(NextToken):
    """Has its teacher as a submodule."""

    def prepare(self, model, build) -> None:
        self.teacher = build()


class Forgetful(NextToken):
    """Has state that changes the loss and is not saved."""

    steps = 0

    def forward(self, model, batch, totals):
        self.steps += self.training
        out = super().forward(model, batch, totals)
        out.total = out.total * (1 + self.steps)
        return out


class Unties(LMHead):
    """Copies the embedding weight when a state is loaded."""

    def __init__(self, in_features, vocab_size):
        super().__init__(in_features, vocab_size, tied=True)

    def _load_from_state_dict(self, *arguments):
        self.weight = nn.Parameter(self.weight.detach().clone())
        super()._load_from_state_dict(*arguments)


class HiddenTeacher(NextToken):
    """Has its teacher in the extra state."""

    def prepare(self, model, build) -> None:
        self.weights = build().state_dict()

    def get_extra_state(self):
        return getattr(self, "weights", {})

    def set_extra_state(self, state) -> None:
        pass


def test_a_head_that_unties_itself() -> None:
    said = failure("state_round_trip", "head", Unties)
    assert "load_state_dict changes the parameters: heads.lm.weight" in said


def test_a_teacher_in_the_extra_state() -> None:
    said = failure("state_round_trip", "objective", HiddenTeacher)
    assert "bytes in training: a teacher or reference in it?" in said


def test_a_random_number_outside_the_state() -> None:
    assert "output of lm after load_state_dict differs by" in failure("state_round_trip", "projector", RandomScale)


def test_a_snapshot_in_the_state() -> None:
    said = failure("state_round_trip", "projector", Snapshot)
    assert "the state_dict changes in a step: projector.before" in said


def test_weights_from_the_global_generator() -> None:
    said = failure("state_round_trip", "projector", GlobalDraws)
    assert "projector.linear.weight drawn twice from one seed differs by" in said


def test_objectives_with_a_teacher_or_lost_state() -> None:
    said = failure("state_round_trip", "objective", Teacher)
    assert "the state_dict changes in training: teacher." in said
    assert "loss after load_state_dict differs by" in failure("state_round_trip", "objective", Forgetful)


def test_what_a_folder_cannot_name_is_not_applicable() -> None:
    class Local(LinearProjector):
        pass

    def reason(factory):
        report = check_component("projector", factory, only=["state_round_trip"])
        return report.results[0].status, report.results[0].detail

    assert reason(lambda a, b: LinearProjector(a, b)) == (
        "not applicable",
        "the factory of the projector is not a class or functools.partial of one: no folder names it",
    )
    assert "Local is defined inside a function" in reason(Local)[1]
    assert reason(partial(LinearProjector, bias=True)) == ("passed", "")


class WithBuffers(LinearProjector):
    """Has buffers in its state, one of them an integer."""

    def __init__(self, in_features, out_features):
        super().__init__(in_features, out_features)
        self.register_buffer("scale", torch.full((out_features,), 3.0))
        self.register_buffer("steps", torch.tensor(7))

    def init_buffer(self, name, value) -> bool:
        value.fill_(3.0 if name == "scale" else 7)
        return True

    def forward(self, features, embedding_weight=None):
        return super().forward(features) * self.scale + self.steps


def test_buffers_of_the_state_are_in_a_folder() -> None:
    assert check_component("projector", WithBuffers, only=["state_round_trip"])


class ExtraState(LinearProjector):
    def get_extra_state(self):
        return {"seen": 3}

    def set_extra_state(self, state) -> None:
        assert state == {"seen": 3}


def test_extra_state_of_a_part_is_not_in_a_folder() -> None:
    said = failure("state_round_trip", "projector", ExtraState)
    assert "projector._extra_state is not a tensor: a folder holds weights and buffers, no extra state" in said
