"""Models of the hub where the hub is out of reach, or slow."""

import socket
import ssl
import time

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import httpx

from ldm.conditioner.huggingface import HuggingFaceConditioner
from ldm.pretrained import hub
from ldm.pretrained.clip_score import CLIPScore
from ldm.pretrained.depth import DepthNetwork
from ldm.pretrained.hub import ATTEMPTS, local_files_only
from ldm.pretrained.tokens import padded_tokenizer
from ldm.pretrained.vision import VisionEncoder

NAME = "somebody/a-model"


@pytest.fixture
def slept(monkeypatch):
    """The seconds that are waited, instead of waiting for them."""
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits


@pytest.fixture
def unreachable(monkeypatch, tmp_path):
    """A hub at an address where nobody answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


LOADS = {
    "text encoder": lambda: HuggingFaceConditioner(NAME, width=8).prepare(None),
    "vision encoder": lambda: VisionEncoder(NAME),
    "CLIP model": lambda: CLIPScore(NAME),
    "depth network": lambda: DepthNetwork(NAME, size=8).load(),
    "tokenizer": lambda: padded_tokenizer(NAME),
}


@pytest.mark.parametrize("kind", LOADS)
def test_a_model_that_is_not_there_is_reported_without_waiting_for_a_hub_out_of_reach(unreachable, slept, kind):
    with pytest.raises(FileNotFoundError, match=rf"no {kind} '{NAME}'"):
        LOADS[kind]()
    assert sum(slept) <= 1


class Session:
    """A connection to the hub that gives prepared answers, one after the other."""

    def __init__(self, *answers):
        self.answers, self.waited = list(answers), []

    def head(self, url, *, timeout):
        self.waited.append(timeout)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


REFUSED, SLOW = httpx.ConnectError("refused"), httpx.ReadTimeout("slow")
UNTRUSTED = httpx.ConnectError("certificate verify failed")
UNTRUSTED.__cause__ = ssl.SSLCertVerificationError("certificate verify failed")


@pytest.mark.parametrize(
    ("answers", "local"),
    [
        ([200], False),
        ([503], False),
        ([SLOW], False),
        ([UNTRUSTED], False),
        ([REFUSED, 200], False),
        ([httpx.ConnectTimeout("no answer")] * ATTEMPTS, True),
        ([REFUSED] * ATTEMPTS, True),
    ],
)
def test_a_hub_that_answers_at_all_is_asked_for_a_model(monkeypatch, slept, answers, local):
    session = Session(*answers)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 33)
    monkeypatch.setattr(hub, "get_session", lambda: session)
    assert local_files_only(NAME) == local
    assert session.waited == [33] * len(answers)


def test_nothing_is_asked_for_a_folder_or_where_the_user_says_that_there_is_no_hub(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "get_session", lambda: Session())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert not local_files_only(str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not local_files_only(NAME), "its library says so itself"
