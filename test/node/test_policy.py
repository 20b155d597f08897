"""The SROS2 policy in config/: of the form that ``ros2 security`` reads; it allows what a real node has, no more."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rclpy.node import Node

from dust3r_ros.node.interface import INPUTS, NODE_PUBLISHES, NODE_SERVICES, NODE_SUBSCRIBES, OUTPUTS, SERVICES
from dust3r_ros.node.tools.recorder import Recorder, RemoteError

POLICY = Path(__file__).resolve().parents[2] / "config/sros2_policy.xml"
LATER = {"/tf", "/tf_static", "/camera/estimated/pose"}  # with the first transform, with several cameras


@pytest.fixture(scope="module")
def profile() -> ElementTree.Element:
    root = ElementTree.parse(POLICY).getroot()
    assert (root.tag, root.get("version")) == ("policy", "0.2.0")
    (enclave,) = root.findall("enclaves/enclave")
    (found,) = enclave.findall("profiles/profile")
    assert (enclave.get("path"), found.attrib) == ("/dust3r", {"ns": "/", "node": "dust3r"})
    assert len(list(root)) == len(list(enclave)) == 1
    return found


def allowed(profile: ElementTree.Element, verb: str, full: bool = True) -> set[str]:
    """Names in the rule of a verb; ``full``: with the node's name in place of the tilde."""
    (rule,) = [rule for rule in profile if verb in rule.attrib]
    assert rule.tag == ("services" if verb == "reply" else "topics") and rule.attrib == {verb: "ALLOW"}
    assert {item.tag for item in rule} == {rule.tag[:-1]}
    names = [item.text or "" for item in rule]
    assert len(set(names)) == len(names) and all(name.startswith(("/", "~/")) for name in names)
    return {name.replace("~", "/dust3r") if full else name for name in names}


def test_everything_of_the_interface_is_in_it(profile: ElementTree.Element) -> None:
    assert len(profile) == 3
    assert allowed(profile, "reply", full=False) == {row.name for row in SERVICES.values()} | set(NODE_SERVICES)
    for verb, rows, more in (("publish", OUTPUTS, NODE_PUBLISHES), ("subscribe", INPUTS, NODE_SUBSCRIBES)):
        names = {row.name.replace("<camera>", "/camera") for row in rows.values()} | set(more)
        plain = {name for name in names if name.startswith(("/", "~/"))}
        others = {"/camera/image_raw"} if verb == "subscribe" else set()  # named by a parameter
        assert allowed(profile, verb, full=False) == plain | others


@pytest.mark.usefixtures("own_domain")  # killed processes of other tests can keep messages of the node from observers
def test_a_node_has_what_it_allows_and_no_more(profile: ElementTree.Element, start_node: Callable[..., Any]) -> None:
    start_node(use_sim_time=True).status(lambda status: True, "the node is active")
    wanted = {
        "publisher": allowed(profile, "publish") - LATER,
        "subscriber": allowed(profile, "subscribe"),
        "service": allowed(profile, "reply"),
        "client": set(),
    }
    found: dict[str, set[str]] = {}

    def known(node: Node) -> bool:  # who publishes what is discovered some time after the topics are
        if ("dust3r", "/") not in node.get_node_names_and_namespaces():
            return False
        for kind in wanted:
            by_node = getattr(node, f"get_{kind}_names_and_types_by_node")
            found[kind] = {name for name, _ in by_node("dust3r", "/")}
        return all(found[kind] >= names for kind, names in wanted.items())

    for patience_s in (30, 30, 90):  # under load, a participant may miss for good what a node says of itself
        with Recorder("/camera/estimated/camera_info") as observer, suppress(RemoteError):
            observer.wait(partial(known, observer.node), patience_s, "everything that the policy allows is there")
            break
    assert found == wanted
