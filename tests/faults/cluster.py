"""
Three RabbitMQ nodes as one cluster, of the tests' own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.rabbitmq import Broker, BrokerError
from tests.waiting import wait_until


class Cluster:
    """
    Three nodes, of which each can be killed, or cut off from the other two.
    """

    def __init__(self) -> None:
        self.nodes: list[Broker] = []

    def __enter__(self) -> Cluster:
        try:
            for _ in range(3):
                self.nodes.append(Broker(peer=self.nodes[0] if self.nodes else None))
                self.nodes[-1].start()
            wait_until(lambda: 3 == self.count(self.nodes[0]), timeout=60)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """
        End the nodes; the first is the last, for the others meet at its port mapper.
        """
        for node in reversed(self.nodes):
            node.close()

    @property
    def uri(self) -> str:
        """
        All three, one to fail over to the next.
        """
        return ";".join(node.uri for node in self.nodes)

    def count(self, node: Broker) -> int:
        """
        How many running nodes *node* sees, with itself.
        """
        try:
            return int(node.ctl("eval", "length(rabbit_nodes:all_running())."))
        except BrokerError:
            return 0

    def leader(self, queue: str) -> Broker:
        """
        The node that leads a quorum queue.
        """

        def find() -> Broker | None:
            for node in self.nodes:
                with contextlib.suppress(BrokerError):
                    table = node.ctl("list_queues", "name", "leader", "--no-table-headers")
                    leaders = dict(line.split() for line in table.splitlines())
                    return next((n for n in self.nodes if n.node == leaders.get(queue)), None)
            return None

        return wait_until(find, timeout=60)

    @contextlib.contextmanager
    def cut_off(self, node: Broker) -> Iterator[None]:
        """
        Let *node* and the other two not hear of each other, while clients reach all three.
        """
        others = [other for other in self.nodes if other is not node]
        pairs = [(node, other) for other in others] + [(other, node) for other in others]
        for one, another in pairs:
            one.ctl("eval", f"erlang:set_cookie('{another.node}', 'of {one.node}').")
        # each side has another cookie now: with the same one, they would connect again; at once,
        # for of nodes that see each other in part, Erlang chooses itself whom to leave
        gone = ", ".join(f"erlang:disconnect_node('{other.node}')" for other in others)
        node.ctl("eval", f"{gone}.")
        wait_until(lambda: 2 == self.count(others[0]), timeout=60)
        try:
            yield
        finally:
            for one, another in pairs:
                one.ctl("eval", f"erlang:set_cookie('{another.node}', erlang:get_cookie()).")
            wait_until(lambda: 3 == self.count(node), timeout=120)
