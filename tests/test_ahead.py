"""Images on threads: all of them, in order, never many at a time, and torch's own threads as they were."""

import threading

import pytest
import torch

from tagmask.ahead import computed


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_every_image_once_in_order_on_single_threads(three_threads):
    seen, lock, most = [], threading.Lock(), [0, 0]

    def compute(name):
        with lock:
            most[0] += 1
            most[1] = max(most)
        assert torch.get_num_threads() == 1
        with lock:
            seen.append(name)
            most[0] -= 1

    names = [str(number) for number in range(50)]
    assert list(computed(names, compute)) == names
    assert sorted(seen) == sorted(names)
    assert most[1] <= 3
    assert torch.get_num_threads() == 3


def test_a_failure_is_raised_in_its_turn_and_ends_the_rest(three_threads):
    begun = []

    def compute(name):
        begun.append(name)
        if name == "5":
            raise RuntimeError("power")

    done = []
    with pytest.raises(RuntimeError, match="power"):
        done.extend(computed([str(number) for number in range(50)], compute))
    assert done == ["0", "1", "2", "3", "4"]
    assert len(begun) <= 5 + 6
    assert torch.get_num_threads() == 3
