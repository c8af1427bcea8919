"""Clocks that jump: leases and terms do not depend on the time of day."""

import time
from pathlib import Path

import pytest

from tests import oracle
from tests.faults import Part, preloaded, system
from tests.harness import wait_until

CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long jump(void) {
  char text[32] = {0};
  int file = open(getenv("CLOCK_FILE"), O_RDONLY);
  if (file < 0) return 0;
  if (read(file, text, 31) < 0) text[0] = 0;
  close(file);
  return atol(text);
}
int clock_gettime(clockid_t id, struct timespec *at) {
  int status = ((int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime"))(id, at);
  if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) at->tv_sec += jump();
  return status;
}
int gettimeofday(struct timeval *at, void *zone) {
  int status = ((int (*)(struct timeval *, void *))dlsym(RTLD_NEXT, "gettimeofday"))(at, zone);
  at->tv_sec += jump();
  return status;
}
time_t time(time_t *at) {
  time_t now = ((time_t (*)(time_t *))dlsym(RTLD_NEXT, "time"))(NULL) + jump();
  if (at) *at = now;
  return now;
}
"""


@pytest.mark.parametrize("seconds", [86_400, pytest.param(-86_400, marks=pytest.mark.slow)])
def test_jumps_of_the_clocks_of_redis_and_learner_change_nothing(folder: Path, seconds: int) -> None:
    clock = folder / "clock"
    shim = preloaded(folder, CLOCK) | {"CLOCK_FILE": str(clock)}
    with system(folder, **shim) as whole:
        learner = Part("learner", folder, whole.redis.port)
        learner.environment |= shim
        whole.parts.append(learner)
        learner.start()
        web = whole.start("web")
        name = web.create(oracle.spec())
        ledger = oracle.Ledger(folder / "ledger")
        with oracle.Driver(web.port, name, ledger, seed=12, pause=0.02) as driver:
            wait_until(lambda: driver.recovered_since(0.0), 30, whole.log)
            clock.write_text(str(seconds))
            moment = time.monotonic()
            with whole.redis.link as link:
                wait_until(lambda: abs(link.time()[0] - time.time() - seconds) < 60, 5)
            wait_until(lambda: driver.recovered_since(moment + 1), 20, whole.log)
            driver.stop()
        assert web.described(name)["term"] == 1
        oracle.judge(web, ledger, name)
