from __future__ import annotations

import pickle
import random

import pytest

from mmcomponents.data.errors import SampleError
from mmcomponents.data.storage import Retry, StorageError, check_member_name
from mmcomponents.data.storage.base import Trouble, merge, redact


@pytest.mark.parametrize("name", ["a.png", "a/b.json", "a..b/c...d.png", ".hidden/x", "ä b/1.png", "a\\b.png", "./a"])
def test_names_that_stay_in_the_folder(name: str) -> None:
    check_member_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "../a",
        "a/../../b",
        "a/..",
        "..",
        "C:\\a",
        "c:a",
        "\\a",
        "\\\\host\\share",
        "a\\..\\..\\b",
        "a/..\\b",
        "a/.. /b",
        "a/.../b",
        "a\0.png",
    ],
)
def test_names_outside_the_folder(name: str) -> None:
    with pytest.raises(SampleError, match=r"the member name .* leaves the folder"):
        check_member_name(name)


def test_spans() -> None:
    assert merge([(10, 5), (0, 5), (12, 1), (100, 0)], gap=5) == [(0, 5), (10, 15)]
    assert merge([(10, 5), (0, 5), (12, 1)], gap=6) == [(0, 15)]
    assert merge([(0, 50), (10, 5), (49, 2)], gap=1) == [(0, 51)]
    assert merge([]) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:word@host:80/a.tar?sig=1&x=2", "http://host:80/a.tar?…"),
        ("ftp://me:w@rd@host/a", "ftp://host/a"),
        ("hf://datasets/me/x@main/a.tar", "hf://datasets/me/x@main/a.tar"),
        ("http://host/a#token=1", "http://host/a?…"),
        ("cannot reach 'https://k@host/b?key=1' now", "cannot reach 'https://host/b?…' now"),
        ("pipe:curl -H 'Authorization: x' http://host", "pipe:curl …"),
        ("pipe:KEY=secret /usr/bin/get it", "pipe:/usr/bin/get …"),
        ("/a/b?c@d", "/a/b?c@d"),
    ],
)
def test_addresses_without_secrets(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_pauses_double_up_to_a_limit_and_vary() -> None:
    retry = Retry(backoff=0.5, longest=3.0, jitter=0.0)
    assert [retry.pause(n) for n in (1, 2, 3, 4, 5000)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert retry.pause(1, wait=2.5) == 2.5
    assert retry.pause(1, wait=99.0) == 3.0
    state = random.getstate()
    pauses = {Retry(backoff=1.0, jitter=0.5).pause(1) for _ in range(20)}
    assert len(pauses) > 1
    assert all(0.5 <= pause <= 1.0 for pause in pauses)
    # Values drawn from the seeded generator must not depend on the network.
    assert random.getstate() == state


def test_tries_are_counted() -> None:
    pauses: list[float] = []
    retry = Retry(tries=3, jitter=0.0, sleep=pauses.append)

    def fail() -> None:
        raise Trouble("no luck")

    with pytest.raises(StorageError, match=r"^the file could not be read after 3 tries: no luck$"):
        retry.run(fail, "the file")
    assert pauses == [0.5, 1.0]
    with pytest.raises(StorageError, match="after 1 try: no luck"):
        Retry(tries=1).run(fail, "the file")
    with pytest.raises(ValueError, match="1 or more, not 0"):
        Retry(tries=0)


def test_settings_and_errors_are_picklable() -> None:
    assert pickle.loads(pickle.dumps(Retry(tries=2))) == Retry(tries=2)
    assert str(pickle.loads(pickle.dumps(StorageError("a")))) == "a"
