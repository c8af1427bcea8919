"""Which models there are: a creation or a deletion is one step, and a late one changes nothing."""

import threading

import pytest

from service.store import keys, models, scripts
from service.store.connection import Link
from tests.faults import System
from tests.harness import wait_until

SPEC = {"task": "binary", "features": 1, "layers": []}


def listed(link: Link, name: str) -> bytes | None:
    """The generation that the list of models gives for a name."""
    return models.names(link).get(name)


def test_a_created_model_is_listed_though_the_reply_is_lost(whole: System) -> None:
    proxy = whole.proxy()
    web, other = whole.start("web", proxy, redis_timeout=0.5), whole.start("web")
    web.create(SPEC)  # Redis knows the script from now on
    proxy.swallow(b'"layers":[]', 1)
    assert web.api("PUT", "/v1/models/lost-reply", SPEC).status == 503
    assert proxy.dropped == 1
    wait_until(lambda: other.api("GET", "/v1/models/lost-reply").status == 200, 5)
    assert whole.redis.link.hexists("freshet:models", "lost-reply")


@pytest.mark.parametrize("late", ["DELETE", "PUT"])
def test_a_slow_request_beside_others_leaves_the_list_true(whole: System, late: str) -> None:
    proxy = whole.proxy()
    slow, quick = whole.start("web", proxy, redis_timeout=5), whole.start("web")
    path = f"/v1/models/{late.lower()}"
    if late == "DELETE":
        assert quick.api("PUT", path, SPEC).status == 201
        wait_until(lambda: slow.api("GET", path).status == 200, 10)
    proxy.delay = 0.15
    thread = threading.Thread(target=lambda: slow.api(late, path, SPEC if late == "PUT" else None))
    thread.start()
    redis, meta = whole.redis.link, f"freshet:{{{late.lower()}}}:meta"
    wait_until(lambda: bool(redis.exists(meta)) == (late == "PUT"), 10)
    if late == "PUT":
        assert quick.api("DELETE", path).status == 204
    assert quick.api("PUT", path, SPEC).status == 201
    thread.join()
    assert redis.hget("freshet:models", late.lower()) == redis.hget(meta, "generation")


def test_a_late_deletion_leaves_a_new_model_of_the_name_alone(link: Link) -> None:
    _, old = models.create(link, "again", b"{}")
    assert models.delete(link, "again")
    _, new = models.create(link, "again", b"{}")
    assert not models.delete_generation(link, "again", old)
    assert listed(link, "again") == new
    assert not models.was_deleted(link, new)
    assert models.was_deleted(link, old)


def test_a_late_creation_does_not_bring_a_deleted_model_back(link: Link) -> None:
    before = models.deletions(link)
    models.create(link, "back", b"{}")
    models.delete(link, "back")
    late = [keys.meta("back"), keys.schedule("back"), keys.MODELS, keys.DELETIONS, keys.SIZES]
    assert link.run(scripts.CREATE, late, ["back", "g", "{}", "0", "", "", before, 1, 9, 9]) == [b"again"]
    assert listed(link, "back") is None


def test_a_deletion_takes_every_key_of_the_model(link: Link) -> None:
    models.create(link, "keys", b"{}")
    link.call("LPUSH", keys.jobs("keys"), "keys.1")
    link.call("HSET", keys.job("keys", "keys.1"), "state", "queued")
    models.delete(link, "keys")
    assert link.call("KEYS", "freshet:{keys}:*") == []
