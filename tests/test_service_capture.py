"""A capture worker's counters while its source is exchanged and when it ends, on the loopback interface of a namespace."""

from __future__ import annotations

import pytest
from namespaces import PATIENCE_S, namespace, wait_until

from sensor import config
from sensor.assembly import Assembly
from sensor.service_capture import Worker
from sensor.service_queue import FlowQueue
from sensor.sources.ring import RingSource

GAUGES = ("interfaces_up", "interfaces_down.lo")


@pytest.mark.root
def test_gauges_are_those_of_the_source_that_is_open_and_counters_of_all() -> None:
    with namespace() as space:
        space.run("ip", "link", "set", "lo", "up")
        sources = [space.call(lambda: RingSource(["lo"], ring_mib=8, wait_s=0.02)) for _ in range(3)]
        first, last = sources[0], sources[-1]
        assert [first.counters()[name] for name in GAUGES] == [1, 0]
        settings = config.load(None, ["flows.table=1024"])
        worker = Worker(0, first, Assembly(settings), FlowQueue(1024), patient=False)
        worker.start()
        try:
            for source in sources[1:]:
                worker.change_source(source)
                wait_until(lambda source=source: worker._source is source, "the other source")  # type: ignore[misc]
                assert [worker.counters()[name] for name in GAUGES] == [1, 0]
            space.run("ip", "link", "set", "lo", "down")
            wait_until(lambda: [worker.counters()[name] for name in GAUGES] == [0, 1], "the loss")
        finally:
            worker.stop()
            assert worker.join(PATIENCE_S)
        counters = worker.counters()
        assert counters["interfaces_lost.lo"] == 1
        assert not set(GAUGES) & set(counters)
        assert last.counters()["interfaces_lost.lo"] == 1
