"""
Run README's first example on what is installed, without a checkout and without extras.

``python -I -W ignore wheel_smoke.py README.md``: the first ``python`` block is a module with a
service, the first ``yaml`` block its configuration. Every entrypoint is called; event
logs have to arrive on the service's exchange of an in-memory broker.
"""

import eventlet


eventlet.monkey_patch()

import importlib.metadata
import inspect
import logging.config
import pathlib
import re
import sys
import types
from typing import Any

import kombu
import yaml
from nameko.cli.main import setup_yaml_parser
from nameko.containers import ServiceContainer
from nameko.testing.services import entrypoint_hook

import logging_ext
import nameko_eventlog


def first_block(text: str, language: str) -> str | None:
    """
    Return the first fenced block in *language*.
    """
    found = re.search(rf"^```{language}[^\n]*\n(.*?)^```", text, re.M | re.S)
    return None if found is None else found[1]


def drain(queue: Any, count: int) -> list[Any]:
    """
    Wait for *count* messages, five seconds at most, and return their bodies.
    """
    bodies: list[Any] = []
    with eventlet.Timeout(5, False):
        while len(bodies) < count:
            message = queue.get(no_ack=True)
            if message is None:
                eventlet.sleep(0.01)
            else:
                bodies.append(message.decode())
    return bodies


def main(readme: str) -> int:
    """
    Run the example, print what arrived, and return the exit code.
    """
    for package in (logging_ext, nameko_eventlog):
        assert "site-packages" in str(package.__file__), package.__file__
        assert pathlib.Path(package.__file__).with_name("py.typed").exists()

    text = pathlib.Path(readme).read_text("utf-8")
    source = first_block(text, "python")
    assert source is not None, "README.md has no python block"
    setup_yaml_parser()
    config = yaml.unsafe_load(first_block(text, "yaml") or "{}") or {}
    config |= {"AMQP_URI": "memory://", "TRANSPORT_OPTIONS": {"polling_interval": 0.01}}
    config.setdefault("WEB_SERVER_ADDRESS", "127.0.0.1:0")
    if "LOGGING" in config:
        logging.config.dictConfig(config["LOGGING"])

    module = types.ModuleType("readme_example")
    sys.modules[module.__name__] = module
    exec(compile(source, readme, "exec"), vars(module))
    services = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and isinstance(getattr(value, "name", None), str)
        and any(
            isinstance(each, nameko_eventlog.EventLogDispatcher) for each in vars(value).values()
        )
    ]
    assert services, "README's first example has no service with an EventLogDispatcher"

    for service in services:
        with kombu.Connection("memory://", transport_options={"polling_interval": 0.01}) as one:
            exchange = kombu.Exchange(f"{service.name}.events", type="topic", durable=True)
            queue = kombu.Queue("smoke", exchange, routing_key="log_event")(one.default_channel)
            queue.declare()
            container = ServiceContainer(service, config)
            container.start()
            for entrypoint in list(container.entrypoints):
                method = getattr(service, entrypoint.method_name)
                needed = list(inspect.signature(method).parameters)[1:]
                with entrypoint_hook(container, entrypoint.method_name) as call:
                    call(*[1 for _ in needed])
            container.stop()
            bodies = drain(queue, 1)
        for body in bodies:
            print("   ", body)
        assert bodies, f"no event log of {service.name} arrived"

    print(f"wheel {importlib.metadata.version('nameko-eventlog')}: README's first example runs")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
