"""What `freshet serve` does with a process that it watches."""

import subprocess
import time

from service.host.supervisor import Child
from tests.harness import wait_until


def test_the_last_words_of_a_dying_process_are_logged_and_none_stick_to_its_successors() -> None:
    lines: list[bytes] = []

    def launch() -> "subprocess.Popen[bytes]":
        command = ["sh", "-c", 'printf "first\\nlast"; exit 1']
        return subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)

    child = Child("speaker", launch, 1.0, lines.append)
    for _ in range(2):
        child.start()
        assert child.process is not None
        child.process.wait()
        wait_until(lambda: tended(child), 5)
    assert lines == [b"first", b"last"] * 2


def tended(child: Child) -> bool:
    child.tend(time.monotonic())
    return child.process is None
